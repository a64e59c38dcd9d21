//! What an audit reads (`aggregator/audit.rs`).

use std::collections::HashMap;
use std::time::Duration;

use sqlx::{PgConnection, Row};

use super::StoreError;
use super::baseline::read_state;
use super::sockets::{self, Patience};
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
pub async fn open_periods(
    connection: &mut PgConnection,
    generation: BoardGenerationId,
) -> Result<Vec<AuditPeriod>, StoreError> {
    let rows: Vec<(i64, Micros, Option<Micros>)> = sqlx::query_as(
        "SELECT id, starts_at, ends_at FROM leaderboard_periods
          WHERE generation_id = $1 AND state = 'open' AND unpublished_at IS NULL ORDER BY starts_at",
    )
    .bind(generation.0)
    .fetch_all(connection)
    .await?;
    let period = |(id, starts_at, ends_at)| AuditPeriod { id, period: Period { starts_at, ends_at } };
    Ok(rows.into_iter().map(period).collect())
}

/// A generation's periods that belong in Redis: open, frozen, and closed ones until they are removed from it.
pub async fn published_periods(
    connection: &mut PgConnection,
    generation: BoardGenerationId,
) -> Result<Vec<AuditPeriod>, StoreError> {
    let rows: Vec<(i64, Micros, Option<Micros>)> = sqlx::query_as(
        "SELECT id, starts_at, ends_at FROM leaderboard_periods
          WHERE generation_id = $1 AND unpublished_at IS NULL ORDER BY starts_at",
    )
    .bind(generation.0)
    .fetch_all(connection)
    .await?;
    let period = |(id, starts_at, ends_at)| AuditPeriod { id, period: Period { starts_at, ends_at } };
    Ok(rows.into_iter().map(period).collect())
}

/// Whether a period belongs in Redis.
pub async fn is_published(connection: &mut PgConnection, period: i64) -> Result<bool, StoreError> {
    sqlx::query_scalar("SELECT EXISTS (SELECT 1 FROM leaderboard_periods WHERE id = $1 AND unpublished_at IS NULL)")
        .bind(period)
        .fetch_one(connection)
        .await
}

/// Whether a generation is what players see.
pub async fn is_live(connection: &mut PgConnection, generation: BoardGenerationId) -> Result<bool, StoreError> {
    sqlx::query_scalar("SELECT EXISTS (SELECT 1 FROM leaderboard_generations WHERE id = $1 AND state = 'live')")
        .bind(generation.0)
        .fetch_one(connection)
        .await
}

/// How many entries each of these periods has; those without any are absent.
pub async fn counts(connection: &mut PgConnection, period_ids: &[i64]) -> Result<HashMap<i64, u64>, StoreError> {
    let rows: Vec<(i64, i64)> = sqlx::query_as(
        "SELECT period_id, count(*) FROM leaderboard_entries WHERE period_id = ANY ($1) GROUP BY period_id",
    )
    .bind(period_ids)
    .fetch_all(connection)
    .await?;
    Ok(rows.into_iter().map(|(period, count)| (period, count.unsigned_abs())).collect())
}

/// Names an entry within a generation: period and player.
pub type Place = (Period, String);

/// Entries of the open periods for one part (part, parts) of the players, by the hash that the event scan uses.
pub async fn entries(
    connection: &mut PgConnection,
    generation: BoardGenerationId,
    players: (i32, i32),
) -> Result<HashMap<Place, EntryState>, StoreError> {
    let rows = sqlx::query(
        "SELECT p.starts_at, p.ends_at, e.player_id, coalesce(e.sum_score, e.score), coalesce(e.sum_subscore, e.subscore),
                e.reached_at, e.event_id, e.plays, e.metadata::text, e.sum_score IS NULL OR e.sum_subscore IS NOT NULL
           FROM leaderboard_periods p JOIN leaderboard_entries e ON e.period_id = p.id
          WHERE p.generation_id = $1 AND p.state = 'open' AND p.unpublished_at IS NULL
            AND ($3 = 1 OR ((hashtext(e.player_id) & 2147483647) % $3) = $2)",
    )
    .bind(generation.0)
    .bind(players.0)
    .bind(players.1)
    .fetch_all(connection)
    .await?;
    rows.iter().map(place_and_state).collect()
}

fn place_and_state(row: &sqlx::postgres::PgRow) -> Result<(Place, EntryState), StoreError> {
    let period = Period { starts_at: row.try_get(0)?, ends_at: row.try_get(1)? };
    Ok(((period, row.try_get(2)?), read_state(row, 3)?))
}

/// The baseline of the same players.
pub async fn baseline(
    connection: &mut PgConnection,
    generation: BoardGenerationId,
    players: (i32, i32),
) -> Result<HashMap<Place, EntryState>, StoreError> {
    let rows = sqlx::query(
        "SELECT p.starts_at, p.ends_at, b.player_id, b.score, b.subscore, b.reached_at, b.event_id, b.plays,
                b.metadata::text, b.moved
           FROM entry_baseline b
           JOIN leaderboard_periods p ON p.generation_id = b.generation_id AND p.starts_at = b.period_start
          WHERE b.generation_id = $1 AND p.state = 'open' AND p.unpublished_at IS NULL
            AND ($3 = 1 OR ((hashtext(b.player_id) & 2147483647) % $3) = $2)",
    )
    .bind(generation.0)
    .bind(players.0)
    .bind(players.1)
    .fetch_all(connection)
    .await?;
    rows.iter().map(place_and_state).collect()
}

/// Facts that wait, packed; those of a consistent snapshot with the entries make up what the events say.
pub async fn waiting_facts(
    connection: &mut PgConnection,
    after: i64,
    limit: i64,
) -> Result<Vec<(i64, Vec<u8>)>, StoreError> {
    sqlx::query_as("SELECT id, facts FROM score_facts WHERE id > $1 ORDER BY id LIMIT $2")
        .bind(after)
        .bind(limit)
        .fetch_all(connection)
        .await
}

/// Freezes what the rest of the transaction sees, and lets its statements and pauses take long: those while the
/// result is kept.
pub async fn take_snapshot(transaction: &mut PgConnection) -> Result<Patience, StoreError> {
    for statement in [
        "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY",
        "SET LOCAL idle_in_transaction_session_timeout = '60s'",
        "SET LOCAL statement_timeout = '5min'",
    ] {
        sqlx::query(statement).execute(&mut *transaction).await?;
    }
    sockets::be_patient(transaction, Duration::from_secs(6 * 60)).await
}

/// A random sample of about `wanted` entries that belong in Redis, of live generations, spread over all leaderboards by
/// size.
pub async fn sample(
    connection: &mut PgConnection,
    wanted: i64,
) -> Result<Vec<(BoardGenerationId, AuditPeriod, String)>, StoreError> {
    // Pages at random: the share that holds about the wanted number, by how many entries a page held when it was last
    // counted and how many pages there are now. If they hold many more, chance decides which are taken,
    // not their place.
    let rows: Vec<(i32, i64, Micros, Option<Micros>, String)> = sqlx::query_as(
        "SELECT p.generation_id, p.id, p.starts_at, p.ends_at, e.player_id
           FROM leaderboard_entries e TABLESAMPLE SYSTEM (least(100, 100.0 * $1 / greatest(1, (
                    SELECT pg_relation_size(oid) / current_setting('block_size')::bigint
                           * CASE WHEN relpages > 0 AND reltuples > 0 THEN reltuples / relpages ELSE 50 END
                      FROM pg_class WHERE oid = 'leaderboard_entries'::regclass)))::real)
           JOIN leaderboard_periods p ON p.id = e.period_id AND p.unpublished_at IS NULL
           JOIN leaderboard_generations g ON g.id = p.generation_id AND g.state = 'live'
          ORDER BY random() LIMIT 3 * $1",
    )
    .bind(wanted)
    .fetch_all(connection)
    .await?;
    let found = |(generation, id, starts_at, ends_at, player)| {
        (BoardGenerationId(generation), AuditPeriod { id, period: Period { starts_at, ends_at } }, player)
    };
    Ok(rows.into_iter().map(found).collect())
}

/// Which of these players belong to one part (part, parts) of all.
pub async fn of_part(
    connection: &mut PgConnection,
    players: &[&str],
    part: (i32, i32),
) -> Result<std::collections::HashSet<String>, StoreError> {
    let found: Vec<String> = sqlx::query_scalar(
        "SELECT player FROM unnest($1::text[]) AS player
          WHERE $3 = 1 OR ((hashtext(player) & 2147483647) % $3) = $2",
    )
    .bind(players)
    .bind(part.0)
    .bind(part.1)
    .fetch_all(connection)
    .await?;
    Ok(found.into_iter().collect())
}
