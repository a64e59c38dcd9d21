//! Removes boards from Redis that Postgres does not know: what is left of a history that was
//! lost (docs/operations/going-back.md).

use super::context::Context;
use super::tenure::{JobError, Tenure};
use crate::domain::ids::BoardGenerationId;
use crate::store::beacons::{self, Beacon};
use crate::store::retention;

/// Steps of the search in one run: half a million keys. The next run goes on where it stopped.
pub const STEPS: usize = 500;

/// Searches on, at most `steps` steps, and removes what is lost. Returns how many boards went.
///
/// # Errors
/// [`JobError`]; the next run goes on behind it.
pub async fn remove(context: &Context, tenure: &Tenure, steps: usize) -> Result<u64, JobError> {
    let mut removed = 0;
    for _ in 0..steps {
        let (boards, last) = context.ranking.search_boards().await?;
        let met: Vec<BoardGenerationId> = boards.keys().copied().collect();
        for generation in unknown(context, &met).await? {
            let keys = boards.get(&generation).map(Vec::as_slice).unwrap_or_default();
            removed += u64::from(remove_if_lost(context, tenure, generation, keys).await?);
        }
        if last || context.stop.is_cancelled() {
            break;
        }
    }
    Ok(removed)
}

/// Asked anew once it is known what Redis holds: a board that is made from now on is another one. And only a
/// Postgres that has what Redis was told of may say that it does not know a board: one that was left behind does not
/// know the newest.
async fn remove_if_lost(
    context: &Context,
    tenure: &Tenure,
    generation: BoardGenerationId,
    keys: &[String],
) -> Result<bool, JobError> {
    let Some(seen) = context.ranking.see_board(generation).await? else { return Ok(false) };
    tenure.check().await?;
    let beacon = Beacon { sequence: seen.beacon().sequence, mark: seen.beacon().mark };
    if !beacons::is_lost(&context.pool, generation, &beacon).await? {
        return Ok(false);
    }
    let removed = context.ranking.remove_lost(&seen, keys).await?;
    if removed {
        tracing::warn!(%generation, "removed a leaderboard from Redis that Postgres does not know");
    }
    Ok(removed)
}

async fn unknown(context: &Context, generations: &[BoardGenerationId]) -> Result<Vec<BoardGenerationId>, JobError> {
    if generations.is_empty() {
        return Ok(Vec::new());
    }
    let mut connection = context.pool.acquire().await?;
    Ok(retention::unknown_generations(&mut connection, generations).await?)
}
