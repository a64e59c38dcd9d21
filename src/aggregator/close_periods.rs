//! Closing periods that are over (docs/rules.md#closing-waits-for-stragglers).
//!
//! A period closes when now is past its end and grace, and so is everything that is still on its way to its game: then
//! whatever is folded later is late by the pure rule, and freezing it changes nobody's rank. What nobody decides is
//! waited for `CLOSE_WAIT_SECONDS`. What was missed while no cron ran is found by looking, not by a timer.

use std::collections::{HashMap, HashSet};

use super::context::Context;
use super::low_water;
use super::tenure::{JobError, Tenure};
use crate::domain::board::Order;
use crate::domain::clock::Micros;
use crate::domain::ids::{BoardGenerationId, GameId};
use crate::domain::low_water::{Closing, Hold, LowWater};
use crate::domain::period::Period;
use crate::ranking::Still;
use crate::runtime::crash_points::crash_point;
use crate::store::period_closing::{self as periods, DuePeriod};
use crate::store::{definitions, fold_periods};

/// A period that waits no longer than this past its end and grace is not worth a word: its scores are being written.
const USUAL_WAIT_SECONDS: i64 = 30;
/// What a period waits for whose closing failed.
pub const FAILING: &str = "failing";

/// A period with more entries takes so long to rank that others do not wait for it.
pub const LARGE: i64 = 50_000;

/// Closes what is due; returns how many periods were closed. Large ones are frozen, and ranked by [`rank_large`]. One
/// that fails does not stop the others.
///
/// # Errors
/// [`JobError`]: the last failure; what was closed stays closed.
///
/// How long is waited for what nobody decides goes by the clock that is behind: this process's, Postgres's or Redis's.
pub async fn close_due(context: &Context, tenure: &Tenure) -> Result<u64, JobError> {
    let now = context.clock.now();
    let due = {
        let mut connection = context.pool.acquire().await?;
        periods::due(&mut connection, now).await?
    };
    let water = match due.iter().map(|period| period.until).max() {
        Some(until) => {
            let games: HashSet<GameId> = due.iter().map(|period| period.game).collect();
            Some(low_water::of_games(context, &Vec::from_iter(games), until).await?)
        }
        None => None,
    };
    let agreed = if due.is_empty() { now } else { now.min((context.database_clock)().await?) };
    let mut round = Round { context, tenure, now, agreed, closed: 0, orders: HashMap::new() };
    let mut last = Ok(());
    for period in &due {
        if context.stop.is_cancelled() {
            break;
        }
        let Some(water) = &water else { break };
        if let Err(error) = round.look_at(period, water).await {
            // If nothing can be done under this lease any more, the rest would fail as well.
            tenure.check().await?;
            tracing::warn!(period = period.id, generation = %period.generation, %error, "a period could not be closed");
            if let Err(error) = round.waits(period, &[FAILING]).await {
                tracing::debug!(period = period.id, %error, "what a period waits for was not noted");
            }
            last = Err(error);
        }
    }
    last.map(|()| round.closed)
}

/// One look at everything that is over.
struct Round<'a> {
    context: &'a Context,
    tenure: &'a Tenure,
    now: Micros,
    /// By Postgres's clock too: the one that is behind.
    agreed: Micros,
    closed: u64,
    orders: HashMap<BoardGenerationId, Order>,
}

impl Round<'_> {
    async fn look_at(&mut self, period: &DuePeriod, water: &LowWater) -> Result<(), JobError> {
        let wait = self.context.retention.close_wait_seconds;
        if !period.frozen {
            let over = match water.closing(period.game, period.until, self.agreed, wait) {
                Closing::Waits(holds) => return self.waits(period, &codes(&holds)).await,
                Closing::ClosesOver(holds) => codes(&holds),
            };
            // Before freezing: a period that cannot be ranked goes on counting.
            self.order(period.generation).await?;
            let mut transaction = self.tenure.begin().await?;
            let frozen = periods::freeze(&mut transaction, period.id, &over).await?;
            transaction.commit().await?;
            if !frozen {
                return Ok(());
            }
            if !over.is_empty() {
                tracing::warn!(
                    period = period.id, game = %period.game, ?over,
                    "closing a period although dead letters or facts set aside are undecided"
                );
            }
        }
        crash_point("close::after_freeze");
        if periods::is_larger(&mut *self.context.pool.acquire().await?, period.id, LARGE).await? {
            return Ok(());
        }
        let order = self.order(period.generation).await?;
        rank(self.tenure, period.id, period.generation, order, self.now).await?;
        self.closed += 1;
        Ok(())
    }

    async fn order(&mut self, generation: BoardGenerationId) -> Result<Order, JobError> {
        if let Some(order) = self.orders.get(&generation) {
            return Ok(*order);
        }
        let mut connection = self.context.pool.acquire().await?;
        let order = periods::order(&mut connection, generation).await?;
        self.orders.insert(generation, order);
        Ok(order)
    }

    /// Notes what a period waits for, once it has waited for longer than usual.
    async fn waits(&self, period: &DuePeriod, reasons: &[&'static str]) -> Result<(), JobError> {
        let usual = self.now <= period.until.plus_seconds(USUAL_WAIT_SECONDS) && reasons != [FAILING];
        if usual || period.frozen || period.waits_for == reasons {
            return Ok(());
        }
        tracing::info!(period = period.id, game = %period.game, ?reasons, "a period is over and waits");
        let mut transaction = self.tenure.begin().await?;
        periods::set_waits(&mut transaction, period.id, reasons).await?;
        transaction.commit().await?;
        Ok(())
    }
}

async fn rank(
    tenure: &Tenure,
    period: i64,
    generation: BoardGenerationId,
    order: Order,
    now: Micros,
) -> Result<(), JobError> {
    let mut transaction = tenure.begin().await?;
    let entries = periods::write_standings(&mut transaction, period, order, now).await?;
    transaction.commit().await?;
    tracing::info!(period, %generation, entries, "period closed");
    Ok(())
}

/// Ranks large periods that are frozen, one after the other, because each takes a connection for minutes: small
/// closings go on beside it. It looks anew after each, so a game that closes many waits for the one that closes one.
/// One that fails does not stop the others.
///
/// # Errors
/// [`JobError`]: the last failure.
pub async fn rank_large(context: &Context, tenure: &Tenure) -> Result<u64, JobError> {
    let (mut ranked, mut failed, mut last) = (0, HashSet::new(), Ok(()));
    while !context.stop.is_cancelled() {
        let found = periods::large(&mut *context.pool.acquire().await?, LARGE).await?;
        let Some((period, generation)) = found.into_iter().find(|(period, _)| !failed.contains(period)) else { break };
        let order = periods::order(&mut *context.pool.acquire().await?, generation).await;
        let done = match order {
            Ok(order) => rank(tenure, period, generation, order, context.clock.now()).await,
            Err(error) => Err(error.into()),
        };
        match done {
            Ok(()) => ranked += 1,
            Err(error) => {
                tenure.check().await?;
                tracing::warn!(period, %generation, %error, "a large period could not be ranked");
                failed.insert(period);
                last = Err(error);
            }
        }
    }
    last.map(|()| ranked)
}

fn codes(holds: &[Hold]) -> Vec<&'static str> {
    holds.iter().map(|hold| hold.code()).collect()
}

/// Makes the current period of every live leaderboard, so that it can be read before anybody has scored.
///
/// # Errors
/// [`JobError`].
pub async fn ensure_current(context: &Context, tenure: &Tenure) -> Result<u64, JobError> {
    let now = context.clock.now();
    let mut transaction = tenure.begin().await?;
    let definitions = definitions::load(&mut transaction).await?;
    let current: Vec<fold_periods::Place> =
        definitions.boards.values().map(|board| (board.generation.id, board.schedule.period_at(now))).collect();
    fold_periods::create(&mut transaction, &current).await?;
    transaction.commit().await?;
    Ok(current.len() as u64)
}

/// Failures in a row after which Redis is taken to be away.
const REDIS_IS_AWAY: u32 = 10;

/// Removes periods from Redis that have been closed for long enough: from then on Postgres answers for them. One that
/// cannot be removed does not stop the others.
///
/// # Errors
/// [`JobError`]: the last failure.
pub async fn unpublish_closed(context: &Context, tenure: &Tenure) -> Result<u64, JobError> {
    let now = context.clock.now();
    let keep = i64::try_from(context.retention.closed_period_redis_ttl).unwrap_or(i64::MAX);
    let (mut removed, mut failures, mut last) = (0, 0, Ok(()));
    let mut after = (Micros::EPOCH, i64::MIN);
    while !context.stop.is_cancelled() && failures < REDIS_IS_AWAY {
        // Before Postgres is asked: one that has gone back since may have them open.
        let era = context.ranking.era().await?;
        let due = {
            let mut connection = context.pool.acquire().await?;
            periods::to_unpublish(&mut connection, now.plus_seconds(-keep), after).await?
        };
        let Some((id, _, _, closed_at)) = due.last() else { break };
        after = (*closed_at, *id);
        for (id, generation, period, _) in due {
            match unpublish(context, tenure, id, generation, &period, &era).await {
                Ok(()) => (removed, failures) = (removed + 1, 0),
                Err(JobError::Ranking(error)) => {
                    let message = "cannot remove a closed period from Redis; trying again";
                    tracing::warn!(period = id, %generation, %error, message);
                    failures += 1;
                    last = Err(error.into());
                }
                Err(error) => return Err(error),
            }
            if failures >= REDIS_IS_AWAY || context.stop.is_cancelled() {
                break;
            }
        }
    }
    last.map(|()| removed)
}

async fn unpublish(
    context: &Context,
    tenure: &Tenure,
    id: i64,
    generation: BoardGenerationId,
    period: &Period,
    era: &str,
) -> Result<(), JobError> {
    // Redis first: if the record is not written, the keys are removed again, which does nothing.
    context.ranking.remove_period(generation, period, Still::InEra(era)).await?;
    let mut transaction = tenure.begin().await?;
    periods::mark_unpublished(&mut transaction, id, context.clock.now()).await?;
    transaction.commit().await?;
    // A rebuild that began between the two may have brought it back.
    context.ranking.remove_period(generation, period, Still::InEra(era)).await?;
    Ok(())
}
