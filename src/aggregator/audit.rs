//! The audit: is what players see what the events say? Redis against entries here, entries against events in
//! [`super::audit_events`]. Drift in Redis is repaired; a difference in Postgres is reported and never touched.

use crate::store::pool::Pool;
use std::collections::HashMap;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::audit_events::{EntriesAudit, audit_entries};
use super::rebuild::rebuild_board;
use super::schedule::Context;
use super::tenure::{JobError, Tenure};
use crate::domain::board::{CompiledBoard, GenerationState, TiePolicy};
use crate::domain::clock::Micros;
use crate::domain::ids::BoardGenerationId;
use crate::domain::ranking_key::Standing;
use crate::ranking::{BoardPeriod, Ranking, ReadError};
use crate::store::audit::{self, AuditPeriod};
use crate::store::{definitions, entries, markers};
use crate::telemetry::metrics as names;

/// Entries compared at once; what one look-up may ask.
const CHUNK: i64 = 500;
/// About how many entries a periodic audit samples.
const SAMPLE: i64 = 2_000;
/// How often what looked different is looked at again before it counts.
const LOOKS: u32 = 3;
/// How long a look waits for markers to be published.
const PATIENCE: Duration = Duration::from_secs(5);

/// What an audit of a leaderboard found.
#[derive(Debug, Clone, serde::Serialize)]
pub struct BoardAudit {
    /// Which definition of which leaderboard.
    pub generation: BoardGenerationId,
    /// Its name.
    pub slug: String,
    /// Redis against entries.
    pub redis: RedisAudit,
    /// Entries against baseline and stored events; `None`: not asked for.
    pub events: Option<EntriesAudit>,
}

impl BoardAudit {
    /// Whether nothing differed.
    pub fn is_clean(&self) -> bool {
        self.redis.drift() == 0 && self.events.as_ref().is_none_or(|events| events.differing == 0)
    }
}

/// Redis against entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
pub struct RedisAudit {
    /// Entries compared one by one.
    pub compared: u64,
    /// In Postgres and not in Redis.
    pub missing: u64,
    /// In both, and not the same.
    pub different: u64,
    /// In Redis beyond what Postgres has.
    pub extra: u64,
    /// The board was written anew.
    pub repaired: bool,
}

impl RedisAudit {
    /// How many entries differed.
    pub fn drift(&self) -> u64 {
        self.missing + self.different + self.extra
    }
}

/// Audits one live leaderboard in full: every entry in Redis, and, when `events` is asked for, every entry against what
/// the stored events say. Memory is bounded whatever the size. After `stop` it ends early and finds nothing more.
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
    let generation = board.generation.id;
    let look = Look { pool, ranking, board, stop };
    let mut redis = RedisAudit::default();
    let periods = {
        let mut connection = pool.acquire().await?;
        audit::open_periods(&mut connection, generation).await?
    };
    for period in &periods {
        let mut after = String::new();
        loop {
            let chunk = entries::chunk(pool, period.id, &after, CHUNK).await?;
            let players: Vec<String> = chunk.into_iter().map(|entry| entry.player_id).collect();
            compare(&look, period, &players, &mut redis).await?;
            match players.last() {
                Some(last) if players.len() as i64 == CHUNK && !stop.is_cancelled() => after.clone_from(last),
                _ => break,
            }
        }
    }
    redis.extra = count_extra(&look, &periods).await?;
    repair(pool, ranking, board, &mut redis).await?;
    let events = if events { Some(audit_entries(pool, board).await?) } else { None };
    Ok(BoardAudit { generation, slug: board.generation.spec.slug.as_str().to_owned(), redis, events })
}

/// Compares a sample of all entries and every count; repairs. What cron does each hour. Returns the drift.
///
/// # Errors
/// [`JobError`].
pub async fn audit_all_samples(context: &Context, tenure: &Tenure) -> Result<u64, JobError> {
    tenure.check().await?;
    let (boards, sample) = {
        let mut connection = context.pool.acquire().await?;
        (definitions::load(&mut connection).await?.boards, audit::sample(&mut connection, SAMPLE).await?)
    };
    let mut by_period: HashMap<(BoardGenerationId, Micros), (AuditPeriod, Vec<String>)> = HashMap::new();
    for (generation, period, player) in sample {
        let (_, players) =
            by_period.entry((generation, period.period.starts_at)).or_insert_with(|| (period, Vec::new()));
        players.push(player);
    }
    let mut drift = 0;
    for board in boards.values().filter(|b| b.generation.state == GenerationState::Live) {
        if context.stop.is_cancelled() {
            break;
        }
        let (pool, ranking, generation) = (&context.pool, &context.ranking, board.generation.id);
        let look = Look { pool, ranking, board, stop: &context.stop };
        let mut redis = RedisAudit::default();
        for (period, players) in by_period.iter().filter(|(key, _)| key.0 == generation).map(|(_, found)| found) {
            for players in players.chunks(CHUNK as usize) {
                compare(&look, period, players, &mut redis).await?;
            }
        }
        let periods = {
            let mut connection = pool.acquire().await?;
            audit::open_periods(&mut connection, generation).await?
        };
        redis.extra = count_extra(&look, &periods).await?;
        repair(pool, ranking, board, &mut redis).await?;
        drift += redis.drift();
    }
    Ok(drift)
}

async fn repair(pool: &Pool, ranking: &Ranking, board: &CompiledBoard, found: &mut RedisAudit) -> Result<(), JobError> {
    if found.drift() == 0 {
        return Ok(());
    }
    let generation = board.generation.id;
    tracing::warn!(%generation, drift = found.drift(), "leaderboard in Redis differs from its entries; rebuilding");
    metrics::counter!(names::AUDIT_DRIFT, "role" => "cron").increment(found.drift());
    rebuild_board(pool, ranking, generation, board.generation.spec.definition.order, |_| {}).await?;
    found.repaired = true;
    Ok(())
}

/// What a comparison looks at.
struct Look<'a> {
    pool: &'a Pool,
    ranking: &'a Ranking,
    board: &'a CompiledBoard,
    stop: &'a CancellationToken,
}

fn period_of(board: &CompiledBoard, period: &AuditPeriod) -> BoardPeriod {
    BoardPeriod {
        generation: board.generation.id,
        period_start: period.period.starts_at,
        order: board.generation.spec.definition.order,
        tie_policy: TiePolicy::Ordinal,
    }
}

/// Compares players. What differs is looked at again after the markers that waited are published: scores move while we
/// look, and only a difference that stays is one.
async fn compare(
    look: &Look<'_>,
    period: &AuditPeriod,
    players: &[String],
    found: &mut RedisAudit,
) -> Result<(), JobError> {
    let Look { pool, ranking, board, stop } = *look;
    found.compared += players.len() as u64;
    let all: Vec<&str> = players.iter().map(String::as_str).collect();
    let mut suspects = all.clone();
    for turn in 0..LOOKS {
        if suspects.is_empty() || stop.is_cancelled() {
            return Ok(());
        }
        if turn > 0 {
            wait_for_markers(pool, stop).await?;
        }
        let stored = stored(pool, period, &suspects).await?;
        // All of them again: an entry is in a wrong place only beside others.
        let published = match ranking.lookup(&period_of(board, period), &all).await {
            Ok(found) => found,
            // Not in Redis at the moment; the aggregator sees to it.
            Err(ReadError::Rebuilding) => return Ok(()),
            Err(ReadError::Unavailable(error)) => return Err(error.into()),
        };
        // Best first by their keys; a rank that contradicts that is of an entry in a wrong place.
        let mut last = 0;
        let published: HashMap<&str, Option<Standing>> = published
            .entries
            .iter()
            .map(|(_, entry)| {
                let in_place = std::mem::replace(&mut last, entry.rank) < entry.rank;
                (entry.player_id(), in_place.then_some(entry.standing))
            })
            .collect();
        suspects.retain(|player| stored.get(*player) != published.get(player).and_then(Option::as_ref));
        if turn + 1 == LOOKS {
            let missing = suspects.iter().filter(|player| !published.contains_key(**player)).count();
            found.missing += missing as u64;
            found.different += (suspects.len() - missing) as u64;
        }
    }
    Ok(())
}

async fn stored(pool: &Pool, period: &AuditPeriod, players: &[&str]) -> Result<HashMap<String, Standing>, JobError> {
    let mut connection = pool.acquire().await?;
    let rows = entries::read(&mut connection, &vec![period.id; players.len()], players).await?;
    Ok(rows.iter().filter_map(|(n, entry)| Some(((*players.get(*n)?).to_owned(), entry.state.published()))).collect())
}

async fn wait_for_markers(pool: &Pool, stop: &CancellationToken) -> Result<(), JobError> {
    let began = tokio::time::Instant::now();
    let mut connection = pool.acquire().await?;
    let (newest, _) = markers::up_to(&mut connection, None).await?;
    while began.elapsed() < PATIENCE && !stop.is_cancelled() && !markers::up_to(&mut connection, Some(newest)).await?.1
    {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

/// How many more entries Redis has than Postgres.
async fn count_extra(look: &Look<'_>, periods: &[AuditPeriod]) -> Result<u64, JobError> {
    let Look { pool, ranking, board, stop } = *look;
    let mut extra = 0;
    for period in periods {
        for turn in 0..LOOKS {
            // Redis first: entries only become more, so what it has Postgres had before.
            let published = match ranking.lookup(&period_of(board, period), &[]).await {
                Ok(found) => i64::try_from(found.total).unwrap_or(i64::MAX),
                Err(ReadError::Rebuilding) => break,
                Err(ReadError::Unavailable(error)) => return Err(error.into()),
            };
            let mut connection = pool.acquire().await?;
            let stored = audit::count_entries(&mut connection, &[period.id]).await?;
            drop(connection);
            match u64::try_from(published - stored) {
                Ok(more) if more > 0 && turn + 1 == LOOKS && !stop.is_cancelled() => extra += more,
                Ok(more) if more > 0 => wait_for_markers(pool, stop).await?,
                _ => break,
            }
        }
    }
    Ok(extra)
}
