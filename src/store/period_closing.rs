//! Closing periods (fine print 6): which are due, freezing them, their final standings.
//!
//! How closing and folding keep apart: a fold locks the rows of its periods `FOR SHARE` and treats facts of a closed
//! one as late (`fold_periods`). [`freeze`] updates the row, so it waits for folds in flight, and folds that begin after
//! it see the period closed. Standings are then written from entries that nobody changes any more.

use std::time::Duration;

use sqlx::{AssertSqlSafe, PgConnection};

use crate::domain::board::{LeaderboardSpec, Order};
use crate::domain::clock::Micros;
use crate::domain::ids::BoardGenerationId;
use crate::domain::period::Period;

/// A period that is due to be closed, or whose closing was interrupted.
#[derive(Debug, Clone)]
pub struct DuePeriod {
    /// `leaderboard_periods.id`.
    pub id: i64,
    /// Whose.
    pub generation: BoardGenerationId,
    /// From when to when.
    pub period: Period,
    /// How it ranks.
    pub order: Order,
    /// How long late scores count.
    pub grace_seconds: u32,
    /// Its standings are frozen and not all written.
    pub frozen: bool,
}

/// Periods of live generations that ended before `now` and are not closed, or whose closing was interrupted; the
/// oldest first, at most 1,000. One whose definition cannot be read is left out and logged.
///
/// # Errors
/// Whatever Postgres says.
pub async fn due(connection: &mut PgConnection, now: Micros) -> Result<Vec<DuePeriod>, sqlx::Error> {
    let rows: Vec<(i64, i32, Micros, Micros, bool, String)> = sqlx::query_as(
        "SELECT p.id, p.generation_id, p.starts_at, p.ends_at, p.state = 'closed', g.spec::text
           FROM leaderboard_periods p JOIN leaderboard_generations g ON g.id = p.generation_id
          WHERE ((p.state = 'open' AND p.ends_at < $1) OR (p.state = 'closed' AND p.closed_at IS NULL))
            AND g.state = 'live'
          ORDER BY p.ends_at LIMIT 1000",
    )
    .bind(now)
    .fetch_all(connection)
    .await?;
    let read = |(id, generation, starts_at, ends_at, frozen, spec): (i64, i32, Micros, Micros, bool, String)| {
        let definition = match serde_json::from_str::<LeaderboardSpec>(&spec) {
            Ok(spec) => spec.definition,
            Err(error) => {
                tracing::error!(generation, %error, "leaderboard definition is unusable");
                return None;
            }
        };
        Some(DuePeriod {
            id,
            generation: BoardGenerationId(generation),
            period: Period { starts_at, ends_at: Some(ends_at) },
            order: definition.order,
            grace_seconds: definition.grace_seconds,
            frozen,
        })
    };
    Ok(rows.into_iter().filter_map(read).collect())
}

/// Freezes a period: when this commits, no fold changes its entries any more. Waits for folds in flight.
///
/// # Errors
/// Whatever Postgres says.
pub async fn freeze(connection: &mut PgConnection, id: i64) -> Result<(), sqlx::Error> {
    sqlx::query("UPDATE leaderboard_periods SET state = 'closed' WHERE id = $1 AND state = 'open'")
        .bind(id)
        .execute(connection)
        .await
        .map(|_| ())
}

/// The statement that ranks. `{o}` is `ASC` or `DESC`, nothing else; a sort key cannot be a parameter.
const RANK: &str = "INSERT INTO period_standings
        (period_id, rank, competition_rank, player_id, score, subscore, reached_at, plays, metadata)
    SELECT period_id, row_number() OVER (ORDER BY score {o}, subscore {o}, reached_at, player_id COLLATE \"C\"),
           rank() OVER (ORDER BY score {o}, subscore {o}), player_id, score, subscore, reached_at, plays, metadata
      FROM leaderboard_entries WHERE period_id = $1";

/// Writes the final standings of a frozen period and marks it closed, in the caller's transaction. The database sorts,
/// on disk when it must. Returns how many entries there are.
///
/// # Errors
/// Whatever Postgres says.
pub async fn write_standings(
    connection: &mut PgConnection,
    id: i64,
    order: Order,
    now: Micros,
) -> Result<i64, sqlx::Error> {
    // Ranking a million entries takes longer than a statement may elsewhere.
    sqlx::query("SET LOCAL statement_timeout = '30min'").execute(&mut *connection).await?;
    super::sockets::be_patient(connection, Duration::from_secs(30 * 60)).await?;
    let direction = if order == Order::Ascending { "ASC" } else { "DESC" };
    let rank = RANK.replace("{o}", direction);
    let written = sqlx::query(AssertSqlSafe(rank)).bind(id).execute(&mut *connection).await?.rows_affected();
    let count = i64::try_from(written).unwrap_or(i64::MAX);
    sqlx::query("UPDATE leaderboard_periods SET entry_count = $2, closed_at = $3 WHERE id = $1 AND state = 'closed'")
        .bind(id)
        .bind(count)
        .bind(now)
        .execute(connection)
        .await?;
    Ok(count)
}

/// Closed periods that Redis need not hold any longer: closed before `before`. At most 1,000.
///
/// # Errors
/// Whatever Postgres says.
pub async fn to_unpublish(
    connection: &mut PgConnection,
    before: Micros,
) -> Result<Vec<(i64, BoardGenerationId, Micros)>, sqlx::Error> {
    let rows: Vec<(i64, i32, Micros)> = sqlx::query_as(
        "SELECT id, generation_id, starts_at FROM leaderboard_periods
          WHERE state = 'closed' AND closed_at < $1 AND unpublished_at IS NULL ORDER BY closed_at LIMIT 1000",
    )
    .bind(before)
    .fetch_all(connection)
    .await?;
    Ok(rows.into_iter().map(|(id, generation, start)| (id, BoardGenerationId(generation), start)).collect())
}

/// Records that Postgres answers for a closed period from now on. To be committed before its keys are removed, so that
/// no rebuild brings them back.
///
/// # Errors
/// Whatever Postgres says.
pub async fn mark_unpublished(connection: &mut PgConnection, id: i64, now: Micros) -> Result<(), sqlx::Error> {
    sqlx::query("UPDATE leaderboard_periods SET unpublished_at = $2 WHERE id = $1")
        .bind(id)
        .bind(now)
        .execute(connection)
        .await
        .map(|_| ())
}

/// The smallest `received_at` among undecided dead letters.
///
/// # Errors
/// Whatever Postgres says.
pub async fn oldest_dead_letter(connection: &mut PgConnection) -> Result<Option<Micros>, sqlx::Error> {
    sqlx::query_scalar("SELECT min(received_at) FROM dead_letters WHERE state = 'waiting'").fetch_one(connection).await
}

/// The smallest `received_at` among facts that are not folded.
///
/// # Errors
/// Whatever Postgres says.
pub async fn oldest_fact(connection: &mut PgConnection) -> Result<Option<Micros>, sqlx::Error> {
    sqlx::query_scalar("SELECT min(min_received_at) FROM score_facts").fetch_one(connection).await
}
