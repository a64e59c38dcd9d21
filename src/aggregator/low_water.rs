//! How far everything is that may still bring scores, for each game: the queue, dead letters, facts.
//!
//! A job becomes facts before it leaves the queue, so the queue is asked before the facts; a dead letter may come from
//! the queue or go back to it, so they are asked before and after.

use super::context::Context;
use super::tenure::JobError;
use crate::domain::clock::Micros;
use crate::domain::ids::GameId;
use crate::domain::low_water::{Hold, LowWater};
use crate::queue::payload::Kind;
use crate::store::under_way::{self, WaitingFacts};

/// What is under way for these games and was received until then.
///
/// # Errors
/// [`JobError`].
pub async fn of_games(context: &Context, games: &[GameId], until: Micros) -> Result<LowWater, JobError> {
    let games: Vec<i32> = games.iter().map(|game| game.0).collect();
    let (games, without) = (&games, &without_events());
    let before = under_way::dead_letters(&context.pool, games, without).await?;
    let mut water = (context.queue_low_water)(until).await.map_err(JobError::LowWater)?;
    let after = under_way::dead_letters(&context.pool, games, without).await?;
    for (game, received_at) in before.into_iter().chain(after) {
        water.add(Hold::DeadLetters, game, received_at);
    }
    add_facts(context, &mut water).await?;
    Ok(water)
}

/// What is under way, whosever it is: everything that was received before its mark has been folded or decided.
///
/// # Errors
/// [`JobError`].
pub async fn of_all(context: &Context) -> Result<LowWater, JobError> {
    let without = &without_events();
    let before = under_way::oldest_dead_letter(&context.pool, without).await?;
    let mut water = (context.queue_low_water)(Micros(i64::MAX)).await.map_err(JobError::LowWater)?;
    let after = under_way::oldest_dead_letter(&context.pool, without).await?;
    for received_at in before.into_iter().chain(after) {
        water.add(Hold::DeadLetters, None, received_at);
    }
    add_facts(context, &mut water).await?;
    Ok(water)
}

async fn add_facts(context: &Context, water: &mut LowWater) -> Result<(), JobError> {
    for WaitingFacts { set_aside, waiting: (game, received_at) } in under_way::facts(&context.pool).await? {
        water.add(if set_aside { Hold::SetAsideFacts } else { Hold::Facts }, game, received_at);
    }
    Ok(())
}

/// A dead letter of any other kind, also of one that only a newer program knows, may hold scores.
fn without_events() -> Vec<&'static str> {
    Kind::ALL.iter().filter(|kind| !kind.carries_events()).map(|kind| kind.name()).collect()
}
