//! Keeping boards in Redis: those that it does not hold are rebuilt (fine print 10).

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::rules::Rules;
pub use crate::board_rebuild::{RebuildBoardError, Rebuilt, rebuild_board};
use crate::domain::board::CompiledBoard;
use crate::domain::ids::BoardGenerationId;
use crate::ranking::{BoardStatus, Ranking, RebuildError};
use crate::store::entries;
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

/// Boards with no more entries than this are rebuilt before larger ones.
const SMALL: i64 = 10_000;
/// Failures in a row after which Redis or Postgres is taken to be away.
const AWAY: u32 = 10;

/// Rebuilds the live boards that need it, one after the other: small ones first, so that nobody's few entries wait for
/// another's millions. One that cannot be rebuilt does not stop the others.
///
/// # Errors
/// Redis or Postgres is away, or the last board that could not be rebuilt.
pub async fn check_boards(pool: &Pool, ranking: &Ranking, rules: &Rules) -> Result<(), RebuildBoardError> {
    rules.refresh().await?;
    let live = rules.live();
    let ids: Vec<BoardGenerationId> = live.iter().map(|b| b.generation.id).collect();
    let statuses = ranking.status(&ids).await?;
    let missing = live.iter().zip(statuses).filter(|(_, status)| *status != BoardStatus::Ready);
    let mut round = Round { pool, ranking, failures: 0, last: Ok(()) };
    let mut large = Vec::new();
    for (board, _) in missing {
        if entries::count_published(pool, board.generation.id.0, SMALL + 1).await? > SMALL {
            large.push(board);
        } else {
            round.rebuild(board).await?;
        }
    }
    for board in large {
        round.rebuild(board).await?;
    }
    round.last
}

/// One look at all boards.
struct Round<'a> {
    pool: &'a Pool,
    ranking: &'a Ranking,
    failures: u32,
    last: Result<(), RebuildBoardError>,
}

impl Round<'_> {
    /// Rebuilds a board; fails when so many have failed that the others would as well.
    async fn rebuild(&mut self, board: &CompiledBoard) -> Result<(), RebuildBoardError> {
        let generation = board.generation.id;
        // Another cron may have rebuilt it while this one was busy with the one before.
        if self.ranking.status(&[generation]).await? == [BoardStatus::Ready] {
            return Ok(());
        }
        let order = board.generation.spec.definition.order;
        match rebuild_board(self.pool, self.ranking, generation, order, |_| {}).await {
            Ok(done) => {
                self.failures = 0;
                tracing::info!(
                    %generation, periods = done.periods, entries = done.entries, version = done.version,
                    "leaderboard rebuilt"
                );
            }
            Err(RebuildBoardError::Rebuild(RebuildError::Busy)) => {}
            Err(error) if self.failures + 1 >= AWAY => return Err(error),
            Err(error) => {
                self.failures += 1;
                tracing::warn!(%generation, %error, "a leaderboard could not be rebuilt");
                self.last = Err(error);
            }
        }
        Ok(())
    }
}
