//! Making a board in Redis from the entries in Postgres (docs/rules.md#boards-are-swapped-whole). Whoever may write
//! boards does it this way: the aggregator when a board is missing or drifted, the api and the command line when
//! somebody asks.

use std::collections::HashSet;

use super::beacon::{self, BeaconError};
use crate::domain::board::Order;
use crate::domain::ids::BoardGenerationId;
use crate::ranking::{Ranking, RankingError, RebuildError, RebuildToken, Still};
use crate::store::{Pool, StoreError, board_versions, entries};
use crate::telemetry::metrics as names;

/// Entries read at once: what bounds the memory of a rebuild.
const ENTRIES_PER_READ: i64 = 2_000;

/// Why a board was not rebuilt. What was readable before still is.
#[derive(Debug, thiserror::Error)]
pub enum RebuildBoardError {
    /// Redis is away, another rebuild is under way, or overtook this one.
    #[error(transparent)]
    Rebuild(#[from] RebuildError),
    /// Postgres is away.
    #[error(transparent)]
    Postgres(#[from] StoreError),
}

impl From<RankingError> for RebuildBoardError {
    fn from(error: RankingError) -> Self {
        Self::Rebuild(error.into())
    }
}

impl From<BeaconError> for RebuildBoardError {
    fn from(error: BeaconError) -> Self {
        match error {
            BeaconError::Ranking(error) => error.into(),
            BeaconError::Postgres(error) => Self::Postgres(error),
        }
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

/// Rebuilds one generation's board: all its periods that Redis should hold. `role` is who does it, in metrics;
/// `progress` is told the number of entries written so far. The board stays readable meanwhile, and changes in one
/// step; folds may go on.
///
/// # Errors
/// [`RebuildBoardError`]; the board is as it was.
pub async fn rebuild_board(
    pool: &Pool,
    ranking: &Ranking,
    generation: BoardGenerationId,
    order: Order,
    role: &'static str,
    mut progress: impl FnMut(u64),
) -> Result<Rebuilt, RebuildBoardError> {
    let token = ranking.begin_rebuild(generation).await?;
    let result = write_and_swap(pool, ranking, &token, generation, order, &mut progress).await;
    metrics::counter!(names::REBUILDS, "role" => role, "outcome" => if result.is_ok() { "done" } else { "failed" })
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
    for (period_id, period) in &periods {
        let mut after = String::new();
        loop {
            let chunk = entries::chunk(pool, *period_id, &after, ENTRIES_PER_READ).await?;
            ranking.write_rebuild(token, period, order, &chunk).await?;
            written += chunk.len() as u64;
            progress(written);
            match chunk.last() {
                Some(last) if chunk.len() as i64 == ENTRIES_PER_READ => after.clone_from(&last.player_id),
                _ => break,
            }
        }
    }
    // A closed period may have left Redis meanwhile, and what was written of it afterwards would bring it back. Whoever
    // takes it away after this look finds all that was written, here or on the board.
    let still: HashSet<_> = entries::published_periods(pool, generation.0).await?.into_iter().collect();
    for gone in periods.iter().filter(|period| !still.contains(period)) {
        ranking.remove_period(generation, &gone.1, Still::Rebuilding(token)).await?;
    }
    let version = finish(pool, ranking, token, generation).await?;
    Ok(Rebuilt { periods: periods.len() as u64, entries: written, version })
}

/// Makes the board ready, under a version that Postgres issues. Redis is told first that it was made from this
/// Postgres: should it go back, what was read of it is doubtful.
async fn finish(
    pool: &Pool,
    ranking: &Ranking,
    token: &RebuildToken,
    generation: BoardGenerationId,
) -> Result<i64, RebuildBoardError> {
    beacon::attest(pool, ranking).await?;
    let version = board_versions::issue(pool, generation).await?;
    Ok(ranking.finish_rebuild(token, version).await?)
}

/// Opens a new board that has no entries yet, so that nobody waits for cron to find it. Says whether it did: a board
/// with anything to publish is left to cron.
///
/// This is a rebuild in which there is nothing to write, and as safe as one: entries that a fold commits after we
/// looked are published after the rebuild has begun, and so are in what is swapped in.
///
/// # Errors
/// [`RebuildBoardError`]; cron will open it.
pub async fn open_empty_board(
    pool: &Pool,
    ranking: &Ranking,
    generation: BoardGenerationId,
) -> Result<bool, RebuildBoardError> {
    let token = match ranking.begin_rebuild(generation).await {
        Ok(token) => token,
        Err(RebuildError::Busy) => return Ok(false),
        Err(error) => return Err(error.into()),
    };
    let opened = async {
        if entries::any(pool, generation.0).await? {
            return Ok(false);
        }
        finish(pool, ranking, &token, generation).await?;
        Ok(true)
    }
    .await;
    if !matches!(opened, Ok(true)) {
        // If this fails too the token expires by itself.
        let _ = ranking.abort_rebuild(&token).await;
    }
    opened
}
