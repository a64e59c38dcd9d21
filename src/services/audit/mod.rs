//! The audit: is what players see what the events say? Redis against entries in [`standings`], entries against events
//! in [`entries`]. Drift in Redis is repaired; a difference in Postgres is reported and never touched.

pub mod entries;
mod standings;

use std::sync::atomic::AtomicBool;

use tokio_util::sync::CancellationToken;

use self::entries::{EntriesAudit, audit_entries};
use self::standings::Look;
pub use self::standings::{RedisAudit, Sampled};
use super::board_rebuild::{RebuildBoardError, rebuild_board};
use crate::domain::board::CompiledBoard;
use crate::domain::ids::BoardGenerationId;
use crate::ranking::{Ranking, RankingError, RebuildError};
use crate::store::{Pool, StoreError, audit};
use crate::telemetry::metrics as names;

/// Why a leaderboard was not audited to the end.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// Postgres failed.
    #[error(transparent)]
    Postgres(#[from] StoreError),
    /// Leaderboards in Redis are away.
    #[error(transparent)]
    Ranking(#[from] RankingError),
    /// A leaderboard that differed could not be written to Redis.
    #[error(transparent)]
    Rebuild(#[from] RebuildBoardError),
}

/// What an audit of a leaderboard found.
#[derive(Debug, Clone, serde::Serialize)]
pub struct BoardAudit {
    /// Which definition of which leaderboard.
    pub generation: BoardGenerationId,
    /// Its name.
    pub slug: String,
    /// An edit, a recompute or a deletion took its place meanwhile: what was compared says nothing about
    /// what players see.
    pub replaced: bool,
    /// Redis against entries.
    pub redis: RedisAudit,
    /// Entries against baseline and stored events; `None`: not asked for, or it was replaced.
    pub events: Option<EntriesAudit>,
}

impl BoardAudit {
    /// Whether nothing differed.
    pub fn is_clean(&self) -> bool {
        self.redis.drift() == 0 && self.events.as_ref().is_none_or(|events| events.differing == 0)
    }
}

/// Audits one live leaderboard in full: every entry that belongs in Redis, and, when `events` is asked for, every entry
/// of an open period against what the stored events say. Memory is bounded whatever the size. `role` is who does it, in
/// metrics. After `stop` it ends early and finds nothing more.
///
/// # Errors
/// [`AuditError`].
pub async fn audit_board(
    pool: &Pool,
    ranking: &Ranking,
    board: &CompiledBoard,
    events: bool,
    role: &'static str,
    stop: &CancellationToken,
) -> Result<BoardAudit, AuditError> {
    let look = Look { pool, ranking, board, stop, behind: AtomicBool::new(false) };
    let mut redis = look.at_everything().await?;
    repair(&look, role, &mut redis).await?;
    let events = if events { audit_entries(pool, board).await? } else { None };
    let generation = board.generation.id;
    let replaced = !is_live(pool, generation).await?;
    if replaced {
        redis = RedisAudit::default();
    }
    let slug = board.generation.spec.slug.as_str().to_owned();
    Ok(BoardAudit { generation, slug, replaced, redis, events: events.filter(|_| !replaced) })
}

/// Compares these players of one leaderboard, some that Redis has, and every count; repairs. Returns the drift.
///
/// # Errors
/// [`AuditError`].
pub async fn audit_sample(
    pool: &Pool,
    ranking: &Ranking,
    board: &CompiledBoard,
    sampled: Sampled,
    role: &'static str,
    stop: &CancellationToken,
) -> Result<u64, AuditError> {
    let look = Look { pool, ranking, board, stop, behind: AtomicBool::new(false) };
    let mut redis = look.at_a_sample(sampled).await?;
    repair(&look, role, &mut redis).await?;
    Ok(redis.drift())
}

async fn is_live(pool: &Pool, generation: BoardGenerationId) -> Result<bool, AuditError> {
    let mut connection = pool.acquire().await?;
    Ok(audit::is_live(&mut connection, generation).await?)
}

/// Writes a board anew that differs, if it is still the one that players see; if not, nothing was found.
async fn repair(look: &Look<'_>, role: &'static str, found: &mut RedisAudit) -> Result<(), AuditError> {
    if found.drift() == 0 {
        return Ok(());
    }
    let generation = look.board.generation.id;
    // Asked last: whoever replaced it did so before or while we compared.
    if !is_live(look.pool, generation).await? {
        *found = RedisAudit { compared: found.compared, ..RedisAudit::default() };
        return Ok(());
    }
    tracing::warn!(%generation, drift = found.drift(), "leaderboard in Redis differs from its entries; rebuilding");
    metrics::counter!(names::AUDIT_DRIFT, "role" => role).increment(found.drift());
    let order = look.board.generation.spec.definition.order;
    match rebuild_board(look.pool, look.ranking, generation, order, role, |_| {}).await {
        Ok(_) => found.repaired = true,
        // Somebody else is at it.
        Err(RebuildBoardError::Rebuild(RebuildError::Busy)) => {}
        Err(error) => return Err(error.into()),
    }
    Ok(())
}
