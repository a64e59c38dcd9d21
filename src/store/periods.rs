//! The periods of a leaderboard, as the api reads them: those of the generation that players see, and what was closed
//! by earlier ones. Final standings outlive edits, so they stay with the generation that counted them.

use crate::store::{Pool, StoreError};

use crate::domain::board::Order;
use crate::domain::clock::Micros;
use crate::domain::ids::BoardGenerationId;
use crate::domain::period::Period;

/// A period as stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoredPeriod {
    /// `leaderboard_periods.id`, by which clients name it.
    pub id: i64,
    /// By whose definition it is counted: an earlier one's than the live one's only when it is closed.
    pub generation: BoardGenerationId,
    /// From when to when.
    pub period: Period,
    /// How it ranks.
    pub order: Order,
    /// Whether its standings are final: written down. One that is frozen and not ranked yet is read like an open one.
    pub closed: bool,
    /// Whether Redis is to hold it: not when it was closed long ago, or by an earlier definition.
    pub in_redis: bool,
    /// Events that came after the grace and do not count.
    pub late_count: i64,
    /// Entries at closing.
    pub entry_count: Option<i64>,
    /// When it was closed.
    pub closed_at: Option<Micros>,
}

type PeriodRow = (i64, i32, Micros, Option<Micros>, bool, bool, i64, Option<i64>, Option<Micros>);

fn from_row(row: PeriodRow) -> StoredPeriod {
    let (id, generation, starts_at, ends_at, ascending, in_redis, late_count, entry_count, closed_at) = row;
    StoredPeriod {
        id,
        generation: BoardGenerationId(generation),
        period: Period { starts_at, ends_at },
        order: if ascending { Order::Ascending } else { Order::Descending },
        closed: closed_at.is_some(),
        in_redis,
        late_count,
        entry_count,
        closed_at,
    }
}

macro_rules! find {
    ($rest:literal) => {
        concat!(
            "SELECT p.id, p.generation_id, p.starts_at, p.ends_at, coalesce(g.spec->>'order' LIKE 'asc%', false),
                    p.generation_id = live.id AND p.unpublished_at IS NULL, p.late_count, p.entry_count, p.closed_at
               FROM leaderboard_generations live
               JOIN leaderboard_generations g ON g.leaderboard_id = live.leaderboard_id
               JOIN leaderboard_periods p ON p.generation_id = g.id
              WHERE live.id = $1 AND (p.generation_id = live.id OR p.state = 'closed') ",
            $rest
        )
    };
}

/// The row of a period, made if it is not there yet, so that the current period has an id before its first score.
///
/// # Errors
/// [`StoreError`]; `RowNotFound` of a generation that was retired or removed meanwhile.
pub async fn ensure(pool: &Pool, generation: BoardGenerationId, period: &Period) -> Result<StoredPeriod, StoreError> {
    if let Some(found) = named(pool, generation, period).await? {
        return Ok(found);
    }
    sqlx::query(
        "INSERT INTO leaderboard_periods (generation_id, starts_at, ends_at)
         SELECT id, $2::timestamptz, $3::timestamptz FROM leaderboard_generations WHERE id = $1 AND state <> 'retired'
         ON CONFLICT DO NOTHING",
    )
    .bind(generation.0)
    .bind(period.starts_at)
    .bind(period.ends_at)
    .execute(pool)
    .await?;
    if let Some(found) = named(pool, generation, period).await? {
        return Ok(found);
    }
    // A program with another calendar made the one of this start.
    starting_at(pool, generation, generation, period.starts_at).await?.ok_or(StoreError::RowNotFound)
}

/// A period by its start and its end: the live generation's, else a closed one.
pub async fn named(pool: &Pool, live: BoardGenerationId, period: &Period) -> Result<Option<StoredPeriod>, StoreError> {
    let row: Option<PeriodRow> = sqlx::query_as(find!(
        "AND p.starts_at = $2 AND p.ends_at IS NOT DISTINCT FROM $3 ORDER BY p.state, p.id LIMIT 1"
    ))
    .bind(live.0)
    .bind(period.starts_at)
    .bind(period.ends_at)
    .fetch_optional(pool)
    .await?;
    Ok(row.map(from_row))
}

/// A period that starts then, of the live generation or a closed one of `owner`: a generation has one of a start.
pub async fn starting_at(
    pool: &Pool,
    live: BoardGenerationId,
    owner: BoardGenerationId,
    starts_at: Micros,
) -> Result<Option<StoredPeriod>, StoreError> {
    let row: Option<PeriodRow> = sqlx::query_as(find!("AND p.generation_id = $2 AND p.starts_at = $3"))
        .bind(live.0)
        .bind(owner.0)
        .bind(starts_at)
        .fetch_optional(pool)
        .await?;
    Ok(row.map(from_row))
}

/// A period by its id, if it is one of the leaderboard whose live generation this is.
pub async fn by_id(pool: &Pool, live: BoardGenerationId, id: i64) -> Result<Option<StoredPeriod>, StoreError> {
    let row: Option<PeriodRow> =
        sqlx::query_as(find!("AND p.id = $2")).bind(live.0).bind(id).fetch_optional(pool).await?;
    Ok(row.map(from_row))
}

/// The periods that began before `before`, the latest first; of those that began together the one that lasts longest.
/// At most `limit`, and then whatever began together with the last one, so that a page that begins there misses none.
pub async fn began_before(
    pool: &Pool,
    live: BoardGenerationId,
    before: Micros,
    limit: i64,
) -> Result<Vec<StoredPeriod>, StoreError> {
    // By generation, because each has its own in order.
    let rows: Vec<PeriodRow> = sqlx::query_as(
        "SELECT p.id, p.generation_id, p.starts_at, p.ends_at, coalesce(g.spec->>'order' LIKE 'asc%', false),
                p.generation_id = live.id AND p.unpublished_at IS NULL, p.late_count, p.entry_count, p.closed_at
           FROM leaderboard_generations live
           JOIN leaderboard_generations g ON g.leaderboard_id = live.leaderboard_id
          CROSS JOIN LATERAL (
                SELECT * FROM leaderboard_periods own
                 WHERE own.generation_id = g.id AND own.starts_at < $2 AND (g.id = live.id OR own.state = 'closed')
                 ORDER BY own.starts_at DESC LIMIT $3) p
          WHERE live.id = $1
          ORDER BY p.starts_at DESC FETCH FIRST ($3) ROWS WITH TIES",
    )
    .bind(live.0)
    .bind(before)
    .bind(limit)
    .fetch_all(pool)
    .await?;
    let mut periods: Vec<StoredPeriod> = rows.into_iter().map(from_row).collect();
    let last = |p: &StoredPeriod| (p.period.starts_at, p.period.ends_at.map_or(i64::MAX, |end| end.0), p.id);
    periods.sort_unstable_by_key(|p| std::cmp::Reverse(last(p)));
    Ok(periods)
}

/// Whether this server has the final standings of a period: they are written in the transaction that sets `closed_at`.
pub async fn is_closed(pool: &Pool, id: i64) -> Result<bool, StoreError> {
    sqlx::query_scalar("SELECT EXISTS (SELECT 1 FROM leaderboard_periods WHERE id = $1 AND closed_at IS NOT NULL)")
        .bind(id)
        .fetch_one(pool)
        .await
}
