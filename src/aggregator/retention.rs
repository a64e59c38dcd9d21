//! What is dropped, and when (`docs/operations/cleanup.md`).

use std::collections::HashMap;
use std::time::Duration;

use super::baseline::{self, Step};
use super::context::Context;
use super::tenure::{JobError, Tenure};
use super::{lost_boards, low_water};
use crate::domain::clock::Micros;
use crate::domain::ids::BoardGenerationId;
use crate::domain::month::Month;
use crate::runtime::crash_points::crash_point;
use crate::store::{Connection, StoreError, partitions, retention};
use crate::telemetry::metrics as names;

/// Rows of one clean-up transaction.
const CHUNK: i64 = 5_000;
/// A process that was not seen for this long has died.
const DEAD_PROCESS: Duration = Duration::from_secs(3_600);
/// Retired generations are kept this long: api processes may still be reading them.
const RETIRED: Duration = Duration::from_secs(60);
const DAY_SECONDS: i64 = 86_400;

/// Settings under which an accepted event could be dropped before it is counted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "RETENTION_DAYS={retention_days} is unsafe: events up to {max_event_age_seconds} seconds old are accepted \
     (MAX_EVENT_AGE_SECONDS), so at least {needed_days} days must be kept"
)]
pub struct UnsafeRetention {
    /// As configured.
    pub retention_days: u32,
    /// As configured.
    pub max_event_age_seconds: u32,
    /// The least that is safe.
    pub needed_days: u32,
}

/// Refuses settings in which an accepted event could be older than retention: it would be dropped before it is counted
/// (docs/rules.md#counted-before-it-is-dropped). For every process's start that knows both settings.
///
/// # Errors
/// [`UnsafeRetention`].
pub fn check_settings(retention_days: u32, max_event_age_seconds: u32) -> Result<(), UnsafeRetention> {
    // A day more than the greatest age: for what waits in the queue.
    let needed_days = max_event_age_seconds.div_ceil(86_400).saturating_add(1);
    if retention_days >= needed_days {
        return Ok(());
    }
    Err(UnsafeRetention { retention_days, max_event_age_seconds, needed_days })
}

/// Folds, detaches and drops months that are wholly older than retention. Returns how many were dropped.
///
/// Nothing that is still on its way may belong to such a month: a job or undecided dead letter received at R holds
/// events no older than R less the greatest accepted age, so the low-water mark says which months can get
/// no more events.
///
/// # Errors
/// [`JobError`], the last failure: what stops one month stops no other. The next run goes on where this one stopped.
pub async fn drop_old_months(context: &Context, tenure: &Tenure) -> Result<u64, JobError> {
    let (attached, pending) = {
        let mut connection = context.pool.acquire().await?;
        partitions::list(&mut connection).await?.into_iter().partition::<Vec<_>, _>(|p| !p.detach_pending)
    };
    let mut failed = Failed::default();
    for half_done in pending {
        tenure.check().await?;
        tracing::info!(partition = half_done.name, "finishing a detach that was interrupted");
        // A backup's snapshot holds it up.
        let finished = partitions::finish_detach(&context.pool, half_done.month()).await;
        failed.unless_done(half_done.month(), finished.map_err(JobError::from))?;
    }
    let mut dropped = drop_detached(context, tenure, &mut failed).await?;
    let horizon = |now: Micros| now.plus_seconds(-i64::from(context.retention.retention_days) * DAY_SECONDS);
    let now = context.clock.now();
    let old: Vec<_> = attached.into_iter().filter(|p| p.range_end <= horizon(now)).collect();
    if old.is_empty() {
        Kept::default().tell();
        return failed.or(dropped);
    }
    let water = low_water::of_all(context).await?;
    // What is dropped cannot be had back, so no single clock decides: the one that is behind the others does.
    let agreed = now.min(water.clock()).min((context.database_clock)().await?);
    let mark = water.mark().plus_seconds(-i64::from(context.max_event_age_seconds));
    let mut kept = Kept::default();
    for (index, partition) in old.iter().enumerate() {
        if partition.range_end > horizon(agreed) {
            tracing::warn!(
                partition = partition.name, %now, %agreed,
                "not dropping a partition: this process's clock is ahead of that of Postgres or Redis"
            );
            kept.add("clock", old.len() - index);
            break;
        }
        let month = partition.month();
        if partition.range_end > mark {
            tracing::warn!(
                partition = partition.name,
                "not dropping a partition: a waiting job or undecided dead letter may hold events for it"
            );
            kept.add("jobs", old.len() - index);
            break;
        }
        let folded = baseline::fold_month(context, tenure, month).await;
        match failed.unless_done(month, folded)? {
            Some(Step::Done) => {}
            Some(Step::More) => break,
            Some(Step::Recomputing) => {
                kept.add("recompute", 1);
                continue;
            }
            Some(Step::Unreadable) => {
                kept.add("unreadable", 1);
                continue;
            }
            None => continue,
        }
        crash_point("retention::after_fold");
        let done = detach_and_drop(context, tenure, month).await;
        dropped += failed.unless_done(month, done)?.unwrap_or_default();
    }
    kept.tell();
    failed.or(dropped)
}

/// The last failure of a month.
#[derive(Default)]
struct Failed(Option<JobError>);

impl Failed {
    /// What was done for a month, or `None`. Whoever has lost the lease does no more for any.
    fn unless_done<T>(&mut self, month: Month, done: Result<T, JobError>) -> Result<Option<T>, JobError> {
        match done {
            Ok(done) => Ok(Some(done)),
            Err(JobError::LeaseLost) => Err(JobError::LeaseLost),
            Err(error) => {
                tracing::warn!(partition = month.partition_name(), %error, "a month past retention stays for now");
                self.0 = Some(error);
                Ok(None)
            }
        }
    }

    fn or(self, dropped: u64) -> Result<u64, JobError> {
        self.0.map_or(Ok(dropped), Err)
    }
}

/// Why months that are past retention are not dropped.
const KEPT_FOR: [&str; 4] = ["clock", "jobs", "recompute", "unreadable"];

/// How many months past retention stay, by reason.
#[derive(Default)]
struct Kept(HashMap<&'static str, usize>);

impl Kept {
    fn add(&mut self, reason: &'static str, months: usize) {
        *self.0.entry(reason).or_default() += months;
    }

    fn tell(&self) {
        for reason in KEPT_FOR {
            let months = self.0.get(reason).copied().unwrap_or_default();
            metrics::gauge!(names::MONTHS_KEPT, "role" => "cron", "reason" => reason).set(months as f64);
        }
    }
}

async fn detach_and_drop(context: &Context, tenure: &Tenure, month: Month) -> Result<u64, JobError> {
    tenure.check().await?;
    if let Err(error) = partitions::detach(&context.pool, month).await {
        // It waits for every transaction that uses the partition, no longer than the lock timeout. The next run
        // finishes it; inserts go on meanwhile.
        tracing::info!(partition = month.partition_name(), %error, "detach not finished; going on at the next run");
        return Ok(0);
    }
    drop_one_detached(context, tenure, month).await
}

async fn drop_detached(context: &Context, tenure: &Tenure, failed: &mut Failed) -> Result<u64, JobError> {
    let detached = {
        let mut connection = context.pool.acquire().await?;
        partitions::list_detached(&mut connection).await?
    };
    let mut dropped = 0;
    for month in detached {
        // Somebody may be reading it.
        let done = drop_one_detached(context, tenure, month).await;
        dropped += failed.unless_done(month, done)?.unwrap_or_default();
    }
    Ok(dropped)
}

async fn drop_one_detached(context: &Context, tenure: &Tenure, month: Month) -> Result<u64, JobError> {
    tenure.check().await?;
    let mut connection = context.pool.acquire().await?;
    let dropped = partitions::drop_detached(&mut connection, month, context.clock.now()).await?;
    if dropped {
        tracing::info!(partition = month.partition_name(), "partition dropped; its events are in the baseline");
    } else {
        tracing::warn!(partition = month.partition_name(), "a detached month is not in the baseline; left alone");
    }
    Ok(u64::from(dropped))
}

/// Removes what nobody needs any more, in chunks. Returns how many rows went. What cannot be removed does not stop the
/// rest.
///
/// # Errors
/// [`JobError`]: the last failure.
pub async fn clean_up(context: &Context, tenure: &Tenure) -> Result<u64, JobError> {
    let logs = Duration::from_secs(u64::from(context.retention.log_retention_days) * DAY_SECONDS.cast_unsigned());
    let closed = context.clock.now().plus_seconds(-(DEAD_PROCESS.as_secs().cast_signed()));
    let removed = [
        all(context, tenure, |c| Box::pin(retention::dead_letters(c, logs, CHUNK))).await,
        all(context, tenure, |c| Box::pin(retention::audit_log(c, logs, CHUNK))).await,
        all(context, tenure, |c| Box::pin(retention::revoked_keys(c, logs, CHUNK))).await,
        all(context, tenure, |c| Box::pin(retention::processes(c, DEAD_PROCESS, CHUNK))).await,
        all(context, tenure, |c| Box::pin(retention::recompute_leases(c, DEAD_PROCESS, CHUNK))).await,
        all(context, tenure, |c| Box::pin(retention::closed_baseline(c, closed, CHUNK))).await,
        clean_retired(context, tenure).await,
        lost_boards::remove(context, tenure, lost_boards::STEPS).await,
    ];
    let (removed, last) = removed.into_iter().fold((0, Ok(())), |(sum, last), removed| match removed {
        Ok(some) => (sum + some, last),
        Err(error) => (sum, Err(error)),
    });
    last.map(|()| removed)
}

/// Failures in a row after which Redis or Postgres is taken to be away.
const AWAY: u32 = 10;

async fn clean_retired(context: &Context, tenure: &Tenure) -> Result<u64, JobError> {
    let (mut removed, mut failures, mut last) = (0, 0, Ok(()));
    let mut after = BoardGenerationId(i32::MIN);
    while failures < AWAY && !context.stop.is_cancelled() {
        let retired = {
            let mut connection = context.pool.acquire().await?;
            retention::retired_generations(&mut connection, RETIRED, after).await?
        };
        let Some(reached) = retired.last() else { break };
        after = *reached;
        for generation in retired {
            match clean_generation(context, tenure, generation).await {
                Ok(some) => (removed, failures) = (removed + some, 0),
                Err(JobError::LeaseLost) => return Err(JobError::LeaseLost),
                Err(error) => {
                    tracing::warn!(%generation, %error, "a retired leaderboard is not removed yet");
                    failures += 1;
                    last = Err(error);
                }
            }
            if failures >= AWAY {
                break;
            }
        }
    }
    last.map(|()| removed)
}

async fn clean_generation(context: &Context, tenure: &Tenure, generation: BoardGenerationId) -> Result<u64, JobError> {
    context.ranking.remove_board(generation).await?;
    all(context, tenure, |c| Box::pin(retention::retired_generation(c, generation, CHUNK))).await
}

type Removed<'c> = futures_util::future::BoxFuture<'c, Result<u64, StoreError>>;

/// Repeats a bounded clean-up, a transaction each, until it finds nothing.
async fn all(
    context: &Context,
    tenure: &Tenure,
    remove: impl for<'c> Fn(&'c mut Connection) -> Removed<'c>,
) -> Result<u64, JobError> {
    let mut removed = 0;
    while !context.stop.is_cancelled() {
        let mut transaction = tenure.begin().await?;
        let some = remove(&mut transaction).await?;
        transaction.commit().await?;
        removed += some;
        if some == 0 {
            break;
        }
    }
    Ok(removed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_that_could_drop_an_accepted_event_are_refused() {
        let week = 7 * 86_400;
        assert_eq!(check_settings(90, week), Ok(()));
        assert_eq!(check_settings(8, week), Ok(()));
        let refused = check_settings(7, week).unwrap_err();
        assert_eq!(refused.needed_days, 8);
        assert!(refused.to_string().contains("at least 8 days"), "{refused}");
        assert!(check_settings(0, 0).is_err());
        assert!(check_settings(1, u32::MAX).is_err());
    }
}
