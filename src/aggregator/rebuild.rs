//! Keeping boards in Redis: those that it does not hold are rebuilt (fine print 10).

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::rules::Rules;
pub use crate::board_rebuild::{RebuildBoardError, Rebuilt, rebuild_board};
use crate::domain::ids::BoardGenerationId;
use crate::ranking::{BoardStatus, Ranking, RebuildError};
use crate::store::pool::Pool;

/// How often boards are looked after.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// Rebuilds live boards that Redis does not hold, or held before it restarted: at start, each second, and when
/// `wanted` says so, until `stop`.
pub async fn keep_boards(
    pool: &Pool,
    ranking: &Ranking,
    rules: &Rules,
    wanted: &Arc<Notify>,
    stop: &CancellationToken,
) {
    let mut healthy = true;
    loop {
        let checked = tokio::select! {
            () = stop.cancelled() => return,
            checked = check_boards(pool, ranking, rules) => checked,
        };
        match checked {
            Ok(()) => healthy = true,
            Err(error) => {
                if std::mem::replace(&mut healthy, false) {
                    tracing::warn!(%error, "boards could not be checked; trying each second");
                }
            }
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = wanted.notified() => {}
            () = tokio::time::sleep(CHECK_INTERVAL) => {}
        }
    }
}

/// Rebuilds the live boards that need it, one after the other.
///
/// # Errors
/// Redis or Postgres is away.
pub async fn check_boards(pool: &Pool, ranking: &Ranking, rules: &Rules) -> Result<(), RebuildBoardError> {
    rules.refresh().await?;
    let live = rules.live();
    let ids: Vec<BoardGenerationId> = live.iter().map(|b| b.generation.id).collect();
    let statuses = ranking.status(&ids).await?;
    for (board, _) in live.iter().zip(statuses).filter(|(_, status)| *status != BoardStatus::Ready) {
        let generation = board.generation.id;
        // Another cron may have rebuilt it while this one was busy with the one before.
        if ranking.status(&[generation]).await? == [BoardStatus::Ready] {
            continue;
        }
        match rebuild_board(pool, ranking, generation, board.generation.spec.definition.order, |_| {}).await {
            Ok(done) => tracing::info!(
                %generation, periods = done.periods, entries = done.entries, version = done.version,
                "leaderboard rebuilt"
            ),
            Err(RebuildBoardError::Rebuild(RebuildError::Busy)) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
