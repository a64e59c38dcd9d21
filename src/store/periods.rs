//! The periods of a leaderboard generation, as the api reads them.

use crate::store::pool::Pool;

use crate::domain::clock::Micros;
use crate::domain::ids::BoardGenerationId;
use crate::domain::period::Period;

/// A period as stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoredPeriod {
    /// `leaderboard_periods.id`, by which clients name it.
    pub id: i64,
    /// From when to when.
    pub period: Period,
    /// Whether its standings are final: written down. One that is frozen and not ranked yet is read like an open one.
    pub closed: bool,
    /// Events that came after the grace and do not count.
    pub late_count: i64,
    /// Entries at closing.
    pub entry_count: Option<i64>,
    /// When it was closed.
    pub closed_at: Option<Micros>,
}

type PeriodRow = (i64, Micros, Option<Micros>, i64, Option<i64>, Option<Micros>);

fn from_row((id, starts_at, ends_at, late_count, entry_count, closed_at): PeriodRow) -> StoredPeriod {
    let period = Period { starts_at, ends_at };
    StoredPeriod { id, period, closed: closed_at.is_some(), late_count, entry_count, closed_at }
}

/// The row of a period, made if it is not there yet, so that the current period has an id before its first score.
///
/// # Errors
/// Whatever Postgres says; a generation that was removed meanwhile violates a foreign key.
pub async fn ensure(pool: &Pool, generation: BoardGenerationId, period: &Period) -> Result<StoredPeriod, sqlx::Error> {
    if let Some(found) = starting_at(pool, generation, period.starts_at).await? {
        return Ok(found);
    }
    sqlx::query(
        "INSERT INTO leaderboard_periods (generation_id, starts_at, ends_at) VALUES ($1, $2, $3)
         ON CONFLICT (generation_id, starts_at) DO NOTHING",
    )
    .bind(generation.0)
    .bind(period.starts_at)
    .bind(period.ends_at)
    .execute(pool)
    .await?;
    starting_at(pool, generation, period.starts_at).await?.ok_or(sqlx::Error::RowNotFound)
}

/// A period by its start.
///
/// # Errors
/// Whatever Postgres says.
pub async fn starting_at(
    pool: &Pool,
    generation: BoardGenerationId,
    starts_at: Micros,
) -> Result<Option<StoredPeriod>, sqlx::Error> {
    let row: Option<PeriodRow> = sqlx::query_as(
        "SELECT id, starts_at, ends_at, late_count, entry_count, closed_at
           FROM leaderboard_periods WHERE generation_id = $1 AND starts_at = $2",
    )
    .bind(generation.0)
    .bind(starts_at)
    .fetch_optional(pool)
    .await?;
    Ok(row.map(from_row))
}

/// A period by its id, if it is one of this generation.
///
/// # Errors
/// Whatever Postgres says.
pub async fn by_id(pool: &Pool, generation: BoardGenerationId, id: i64) -> Result<Option<StoredPeriod>, sqlx::Error> {
    let row: Option<PeriodRow> = sqlx::query_as(
        "SELECT id, starts_at, ends_at, late_count, entry_count, closed_at
           FROM leaderboard_periods WHERE generation_id = $1 AND id = $2",
    )
    .bind(generation.0)
    .bind(id)
    .fetch_optional(pool)
    .await?;
    Ok(row.map(from_row))
}

/// The periods that began before `before`, the latest first.
///
/// # Errors
/// Whatever Postgres says.
pub async fn began_before(
    pool: &Pool,
    generation: BoardGenerationId,
    before: Micros,
    limit: i64,
) -> Result<Vec<StoredPeriod>, sqlx::Error> {
    let rows: Vec<PeriodRow> = sqlx::query_as(
        "SELECT id, starts_at, ends_at, late_count, entry_count, closed_at
           FROM leaderboard_periods WHERE generation_id = $1 AND starts_at < $2
          ORDER BY starts_at DESC LIMIT $3",
    )
    .bind(generation.0)
    .bind(before)
    .bind(limit)
    .fetch_all(pool)
    .await?;
    Ok(rows.into_iter().map(from_row).collect())
}

/// Whether this server has the final standings of a period: they are written in the transaction that sets `closed_at`.
///
/// # Errors
/// Whatever Postgres says.
pub async fn is_closed(pool: &Pool, id: i64) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar("SELECT EXISTS (SELECT 1 FROM leaderboard_periods WHERE id = $1 AND closed_at IS NOT NULL)")
        .bind(id)
        .fetch_one(pool)
        .await
}
