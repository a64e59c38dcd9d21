//! What an audit reads (`aggregator/audit.rs`).

use std::collections::HashMap;

use sqlx::{PgConnection, Row};

use super::baseline::read_state;
use crate::domain::clock::Micros;
use crate::domain::entry::EntryState;
use crate::domain::ids::BoardGenerationId;
use crate::domain::period::Period;

/// A period to audit.
#[derive(Debug, Clone, Copy)]
pub struct AuditPeriod {
    /// `leaderboard_periods.id`.
    pub id: i64,
    /// From when to when.
    pub period: Period,
}

/// A generation's open periods.
///
/// # Errors
/// Whatever Postgres says.
pub async fn open_periods(
    connection: &mut PgConnection,
    generation: BoardGenerationId,
) -> Result<Vec<AuditPeriod>, sqlx::Error> {
    let rows: Vec<(i64, Micros, Option<Micros>)> = sqlx::query_as(
        "SELECT id, starts_at, ends_at FROM leaderboard_periods
          WHERE generation_id = $1 AND state = 'open' ORDER BY starts_at",
    )
    .bind(generation.0)
    .fetch_all(connection)
    .await?;
    let period = |(id, starts_at, ends_at)| AuditPeriod { id, period: Period { starts_at, ends_at } };
    Ok(rows.into_iter().map(period).collect())
}

/// How many entries a generation's open periods have.
///
/// # Errors
/// Whatever Postgres says.
pub async fn count_entries(connection: &mut PgConnection, period_ids: &[i64]) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar("SELECT count(*) FROM leaderboard_entries WHERE period_id = ANY ($1)")
        .bind(period_ids)
        .fetch_one(connection)
        .await
}

/// Names an entry within a generation: period start and player.
pub type Place = (Micros, String);

/// Entries of the open periods for one part (part, parts) of the players, by the hash that the event scan uses.
///
/// # Errors
/// Whatever Postgres says.
pub async fn entries(
    connection: &mut PgConnection,
    generation: BoardGenerationId,
    players: (i32, i32),
) -> Result<HashMap<Place, EntryState>, sqlx::Error> {
    let rows = sqlx::query(
        "SELECT p.starts_at, e.player_id, coalesce(e.sum_score, e.score), coalesce(e.sum_subscore, e.subscore),
                e.reached_at, e.event_id, e.plays, e.metadata::text
           FROM leaderboard_periods p JOIN leaderboard_entries e ON e.period_id = p.id
          WHERE p.generation_id = $1 AND p.state = 'open'
            AND ($3 = 1 OR ((hashtext(e.player_id) & 2147483647) % $3) = $2)",
    )
    .bind(generation.0)
    .bind(players.0)
    .bind(players.1)
    .fetch_all(connection)
    .await?;
    rows.iter().map(|row| Ok(((row.try_get(0)?, row.try_get(1)?), read_state(row, 2)?))).collect()
}

/// The baseline of the same players.
///
/// # Errors
/// Whatever Postgres says.
pub async fn baseline(
    connection: &mut PgConnection,
    generation: BoardGenerationId,
    players: (i32, i32),
) -> Result<HashMap<Place, EntryState>, sqlx::Error> {
    let rows = sqlx::query(
        "SELECT b.period_start, b.player_id, b.score, b.subscore, b.reached_at, b.event_id, b.plays, b.metadata::text
           FROM entry_baseline b
           JOIN leaderboard_periods p ON p.generation_id = b.generation_id AND p.starts_at = b.period_start
          WHERE b.generation_id = $1 AND p.state = 'open'
            AND ($3 = 1 OR ((hashtext(b.player_id) & 2147483647) % $3) = $2)",
    )
    .bind(generation.0)
    .bind(players.0)
    .bind(players.1)
    .fetch_all(connection)
    .await?;
    rows.iter().map(|row| Ok(((row.try_get(0)?, row.try_get(1)?), read_state(row, 2)?))).collect()
}

/// Facts that wait, packed; those of a consistent snapshot with the entries make up what the events say.
///
/// # Errors
/// Whatever Postgres says.
pub async fn waiting_facts(
    connection: &mut PgConnection,
    after: i64,
    limit: i64,
) -> Result<Vec<(i64, Vec<u8>)>, sqlx::Error> {
    sqlx::query_as("SELECT id, facts FROM score_facts WHERE id > $1 ORDER BY id LIMIT $2")
        .bind(after)
        .bind(limit)
        .fetch_all(connection)
        .await
}

/// The highest id of a marker that waits, and whether markers up to an id are all published.
///
/// # Errors
/// Whatever Postgres says.
pub async fn markers_up_to(connection: &mut PgConnection, id: Option<i64>) -> Result<(i64, bool), sqlx::Error> {
    sqlx::query_as(
        "SELECT coalesce(max(id), 0), NOT EXISTS (SELECT 1 FROM dirty_entries WHERE id <= $1) FROM dirty_entries",
    )
    .bind(id.unwrap_or(i64::MAX))
    .fetch_one(connection)
    .await
}

/// Freezes what the rest of the transaction sees, and lets its statements and pauses take long.
///
/// # Errors
/// Whatever Postgres says.
pub async fn take_snapshot(transaction: &mut PgConnection) -> Result<(), sqlx::Error> {
    for statement in [
        "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY",
        "SET LOCAL idle_in_transaction_session_timeout = '60s'",
        "SET LOCAL statement_timeout = '5min'",
    ] {
        sqlx::query(statement).execute(&mut *transaction).await?;
    }
    Ok(())
}
