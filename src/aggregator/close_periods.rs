//! Closing periods that are over (fine print 6).
//!
//! A period closes when now is past its end and grace, and so is everything that is still on its way: then whatever is
//! folded later is late by the pure rule, and freezing it changes nobody's rank. What was missed while no cron ran is
//! found by looking, not by a timer.

use sqlx::PgConnection;

use super::schedule::Context;
use super::tenure::{JobError, Tenure};
use crate::domain::clock::Micros;
use crate::lifecycle::crash_point;
use crate::store::period_closing::{self as periods, DuePeriod};
use crate::store::{definitions, fold_periods};

/// Closes what is due; returns how many periods were closed.
///
/// # Errors
/// [`JobError`]; what was closed stays closed.
pub async fn close_due(context: &Context, tenure: &Tenure) -> Result<u64, JobError> {
    let now = context.clock.now();
    let due = {
        let mut connection = context.pool.acquire().await?;
        periods::due(&mut connection, now).await?
    };
    let is_over = |p: &DuePeriod| p.frozen || p.period.is_late(now, p.grace_seconds);
    let due: Vec<DuePeriod> = due.into_iter().filter(is_over).collect();
    if due.is_empty() {
        return Ok(0);
    }
    let mark = low_water_mark(context).await?;
    let mut closed = 0;
    for period in due {
        if context.stop.is_cancelled() {
            break;
        }
        if !period.frozen && !period.period.is_late(mark, period.grace_seconds) {
            tracing::debug!(period = period.id, %mark, "a period is over, but scores for it may be on their way");
            continue;
        }
        if !period.frozen {
            let mut transaction = tenure.begin().await?;
            periods::freeze(&mut transaction, period.id).await?;
            transaction.commit().await?;
        }
        crash_point("close::after_freeze");
        let mut transaction = tenure.begin().await?;
        let entries = periods::write_standings(&mut transaction, period.id, period.order, now).await?;
        transaction.commit().await?;
        tracing::info!(period = period.id, generation = %period.generation, entries, "period closed");
        closed += 1;
    }
    Ok(closed)
}

/// Everything that was received before this moment has been folded or decided: the smallest `received_at` among queued
/// and running jobs, undecided dead letters and facts.
///
/// A job becomes facts before it leaves the queue, so the queue is asked before the facts; a dead letter may come from
/// the queue or go back to it, so they are asked before and after.
///
/// # Errors
/// [`JobError`].
pub async fn low_water_mark(context: &Context) -> Result<Micros, JobError> {
    let dead_before = with(context, |c| Box::pin(periods::oldest_dead_letter(c))).await?;
    let queue = (context.queue_low_water)().await.map_err(JobError::LowWater)?;
    let dead_after = with(context, |c| Box::pin(periods::oldest_dead_letter(c))).await?;
    let facts = with(context, |c| Box::pin(periods::oldest_fact(c))).await?;
    Ok([dead_before, dead_after, facts].into_iter().flatten().fold(queue, Micros::min))
}

type Asked<'c> = futures_util::future::BoxFuture<'c, Result<Option<Micros>, sqlx::Error>>;

async fn with(context: &Context, ask: impl FnOnce(&mut PgConnection) -> Asked<'_>) -> Result<Option<Micros>, JobError> {
    let mut connection = context.pool.acquire().await?;
    Ok(ask(&mut connection).await?)
}

/// Makes the current period of every live leaderboard, so that it can be read before anybody has scored.
///
/// # Errors
/// [`JobError`].
pub async fn ensure_current(context: &Context, tenure: &Tenure) -> Result<u64, JobError> {
    let now = context.clock.now();
    let mut transaction = tenure.begin().await?;
    let definitions = definitions::load(&mut transaction).await?;
    let (mut generations, mut starts, mut ends) = (Vec::new(), Vec::new(), Vec::new());
    for board in definitions.boards.values() {
        let period = board.schedule.period_at(now);
        generations.push(board.generation.id.0);
        starts.push(period.starts_at);
        ends.push(period.ends_at);
    }
    fold_periods::create(&mut transaction, &generations, &starts, &ends).await?;
    transaction.commit().await?;
    Ok(generations.len() as u64)
}

/// Removes periods from Redis that have been closed for long enough: from then on Postgres answers for them.
///
/// # Errors
/// [`JobError`].
pub async fn unpublish_closed(context: &Context, tenure: &Tenure) -> Result<u64, JobError> {
    let now = context.clock.now();
    let keep = i64::try_from(context.retention.closed_period_redis_ttl).unwrap_or(i64::MAX);
    let due = {
        let mut connection = context.pool.acquire().await?;
        periods::to_unpublish(&mut connection, now.plus_seconds(-keep)).await?
    };
    for (id, generation, starts_at) in &due {
        // Redis first: if the record is not written, the keys are removed again, which does nothing.
        context.ranking.remove_period(*generation, *starts_at).await?;
        let mut transaction = tenure.begin().await?;
        periods::mark_unpublished(&mut transaction, *id, now).await?;
        transaction.commit().await?;
        // A rebuild that began between the two may have brought it back.
        context.ranking.remove_period(*generation, *starts_at).await?;
    }
    Ok(due.len() as u64)
}
