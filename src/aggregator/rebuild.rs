//! Making a board in Redis from the entries in Postgres (invariant 5; fine print 10).

use std::sync::Arc;
use std::time::Duration;

use crate::store::pool::Pool;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::rules::Rules;
use crate::domain::board::Order;
use crate::domain::ids::BoardGenerationId;
use crate::ranking::{BoardStatus, Ranking, RankingError, RebuildError, RebuildToken};
use crate::store::entries;
use crate::telemetry::metrics as names;

/// Entries read at once: what bounds the memory of a rebuild.
const ENTRIES_PER_READ: i64 = 2_000;
/// How often boards are looked after.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// Why a board was not rebuilt. What was readable before still is.
#[derive(Debug, thiserror::Error)]
pub enum RebuildBoardError {
    /// Redis is away, another rebuild is under way, or overtook this one.
    #[error(transparent)]
    Rebuild(#[from] RebuildError),
    /// Postgres is away.
    #[error(transparent)]
    Postgres(#[from] sqlx::Error),
}

impl From<RankingError> for RebuildBoardError {
    fn from(error: RankingError) -> Self {
        Self::Rebuild(error.into())
    }
}

/// What a rebuild wrote.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rebuilt {
    /// Periods of the board.
    pub periods: u64,
    /// Entries of all of them.
    pub entries: u64,
    /// The board's version from now on.
    pub version: i64,
}

/// Rebuilds one generation's board: all its periods that Redis should hold. `progress` is told the number of entries
/// written so far. The board stays readable meanwhile, and changes in one step; folds may go on.
///
/// # Errors
/// [`RebuildBoardError`]; the board is as it was.
pub async fn rebuild_board(
    pool: &Pool,
    ranking: &Ranking,
    generation: BoardGenerationId,
    order: Order,
    mut progress: impl FnMut(u64),
) -> Result<Rebuilt, RebuildBoardError> {
    let token = ranking.begin_rebuild(generation).await?;
    let result = write_and_swap(pool, ranking, &token, generation, order, &mut progress).await;
    metrics::counter!(names::REBUILDS, "role" => "cron", "outcome" => if result.is_ok() { "done" } else { "failed" })
        .increment(1);
    if result.is_err() {
        // If this fails too the token expires by itself.
        let _ = ranking.abort_rebuild(&token).await;
    }
    result
}

async fn write_and_swap(
    pool: &Pool,
    ranking: &Ranking,
    token: &RebuildToken,
    generation: BoardGenerationId,
    order: Order,
    progress: &mut impl FnMut(u64),
) -> Result<Rebuilt, RebuildBoardError> {
    let periods = entries::published_periods(pool, generation.0).await?;
    let mut written = 0;
    for (period_id, period_start) in &periods {
        let mut after = String::new();
        loop {
            let chunk = entries::chunk(pool, *period_id, &after, ENTRIES_PER_READ).await?;
            ranking.write_rebuild(token, *period_start, order, &chunk).await?;
            written += chunk.len() as u64;
            progress(written);
            match chunk.last() {
                Some(last) if chunk.len() as i64 == ENTRIES_PER_READ => after.clone_from(&last.player_id),
                _ => break,
            }
        }
    }
    let version = ranking.finish_rebuild(token).await?;
    Ok(Rebuilt { periods: periods.len() as u64, entries: written, version })
}

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
