//! The audit: is what players see what the events say? Redis against entries in [`super::audit_redis`], entries against
//! events in [`super::audit_events`]. Drift in Redis is repaired; a difference in Postgres is reported and
//! never touched.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use futures_util::{StreamExt, stream};
use tokio_util::sync::CancellationToken;

use super::audit_events::{EntriesAudit, audit_entries};
pub use super::audit_redis::RedisAudit;
use super::audit_redis::{Look, Sampled};
use super::context::Context;
use super::tenure::{JobError, Tenure};
use crate::domain::board::{CompiledBoard, GenerationState};
use crate::domain::ids::{BoardGenerationId, GameId};
use crate::ranking::{Ranking, RebuildError};
use crate::services::board_rebuild::{RebuildBoardError, rebuild_board};
use crate::store::pool::Pool;
use crate::store::{audit, definitions};
use crate::telemetry::metrics as names;

/// About how many entries a periodic audit samples.
const SAMPLE: i64 = 2_000;
/// Games whose boards are looked at side by side.
const GAMES_AT_ONCE: usize = 3;

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
/// of an open period against what the stored events say. Memory is bounded whatever the size. After `stop` it ends
/// early and finds nothing more.
///
/// # Errors
/// [`JobError`].
pub async fn audit_board(
    pool: &Pool,
    ranking: &Ranking,
    board: &CompiledBoard,
    events: bool,
    stop: &CancellationToken,
) -> Result<BoardAudit, JobError> {
    let look = Look { pool, ranking, board, stop, behind: AtomicBool::new(false) };
    let mut redis = look.at_everything().await?;
    repair(&look, &mut redis).await?;
    let events = if events { audit_entries(pool, board).await? } else { None };
    let generation = board.generation.id;
    let replaced = !is_live(pool, generation).await?;
    if replaced {
        redis = RedisAudit::default();
    }
    let slug = board.generation.spec.slug.as_str().to_owned();
    Ok(BoardAudit { generation, slug, replaced, redis, events: events.filter(|_| !replaced) })
}

/// Compares a sample of all entries and every count; repairs. What cron does each hour. Returns the drift.
///
/// # Errors
/// The last failure: a board that cannot be audited keeps no other from being audited.
pub async fn audit_all_samples(context: &Context, tenure: &Tenure) -> Result<u64, JobError> {
    tenure.check().await?;
    let (boards, sample) = {
        let mut connection = context.pool.acquire().await?;
        (definitions::load(&mut connection).await?.boards, audit::sample(&mut connection, SAMPLE).await?)
    };
    let mut sampled: HashMap<BoardGenerationId, Sampled> = HashMap::new();
    for (generation, period, player) in sample {
        let (_, players) = sampled.entry(generation).or_default().entry(period.id).or_insert((period, Vec::new()));
        players.push(player);
    }
    let mut of_games: BTreeMap<GameId, Vec<_>> = BTreeMap::new();
    for board in boards.values().filter(|b| b.generation.state == GenerationState::Live) {
        let sample = sampled.remove(&board.generation.id).unwrap_or_default();
        of_games.entry(board.generation.game_id).or_default().push((board, sample));
    }
    let audits: Vec<_> = of_games.into_values().map(|boards| audit_samples(context, boards)).collect();
    // A game whose boards are slow, or large and to be written anew, holds nobody else up.
    let found: Vec<_> = stream::iter(audits).buffer_unordered(GAMES_AT_ONCE).collect().await;
    let (drift, failed) =
        found.into_iter().fold((0, None), |(sum, last), (drift, failed)| (sum + drift, failed.or(last)));
    failed.map_or(Ok(drift), Err)
}

/// One game's boards, one after the other. Returns the drift and the last failure.
async fn audit_samples(context: &Context, boards: Vec<(&Arc<CompiledBoard>, Sampled)>) -> (u64, Option<JobError>) {
    let (mut drift, mut failed) = (0, None);
    for (board, sampled) in boards {
        if context.stop.is_cancelled() {
            break;
        }
        let (pool, ranking, stop) = (&context.pool, &context.ranking, &context.stop);
        let look = Look { pool, ranking, board, stop, behind: AtomicBool::new(false) };
        let generation = board.generation.id;
        match audit_sample(&look, sampled).await {
            Ok(found) => drift += found,
            Err(error) => {
                tracing::warn!(%generation, %error, "a leaderboard could not be audited");
                failed = Some(error);
            }
        }
    }
    (drift, failed)
}

async fn audit_sample(look: &Look<'_>, sampled: Sampled) -> Result<u64, JobError> {
    let mut redis = look.at_a_sample(sampled).await?;
    repair(look, &mut redis).await?;
    Ok(redis.drift())
}

async fn is_live(pool: &Pool, generation: BoardGenerationId) -> Result<bool, JobError> {
    let mut connection = pool.acquire().await?;
    Ok(audit::is_live(&mut connection, generation).await?)
}

/// Writes a board anew that differs, if it is still the one that players see; if not, nothing was found.
async fn repair(look: &Look<'_>, found: &mut RedisAudit) -> Result<(), JobError> {
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
    metrics::counter!(names::AUDIT_DRIFT, "role" => "cron").increment(found.drift());
    let order = look.board.generation.spec.definition.order;
    match rebuild_board(look.pool, look.ranking, generation, order, "cron", |_| {}).await {
        Ok(_) => found.repaired = true,
        // Somebody else is at it.
        Err(RebuildBoardError::Rebuild(RebuildError::Busy)) => {}
        Err(error) => return Err(error.into()),
    }
    Ok(())
}
