//! A write of our own, which tells a server that takes no writes from work that it does not like.

use sqlx::Connection;
use uuid::Uuid;

use super::failure::{Failure, classify};
use super::pool::Pool;
use super::{events, facts};
use crate::domain::clock::Micros;
use crate::domain::packed_facts::PackedFacts;

/// Writes what a group of events writes, one row into each table, and undoes it: an event of no game at `at`, the lock on
/// games, facts. It needs the same rights and the same disk, and meets nothing of anybody's data. Then it commits a message
/// in the log that nobody reads: a server may take every row and commit nothing, as when its stand-by is away.
///
/// # Errors
/// Whatever Postgres says: the server, or its rights, are at fault.
pub async fn write_and_undo(pool: &Pool, at: Micros) -> Result<(), sqlx::Error> {
    let mut transaction = pool.begin().await?;
    let mut undone = transaction.begin().await?;
    let written = sqlx::query(
        "INSERT INTO events (game_id, event_id, occurred_at, received_at, definitions_generation, from_server, type,
                             player_id, payload)
         VALUES (0, $1, $2, $2, 0, true, 'probe', 'probe', '{}')",
    )
    .bind(Uuid::new_v4())
    .bind(at)
    .execute(&mut *undone)
    .await;
    match written {
        // A month without a table is mended elsewhere; the server has looked at the row.
        Err(error) if classify(&error) == Failure::NoPartition => {}
        other => {
            other?;
            events::lock_definitions_generations(&mut undone, &[]).await?;
            let none = PackedFacts { shard: 0, count: 0, min_received_at: at, games: Vec::new(), bytes: Vec::new() };
            facts::insert(&mut undone, &[none]).await?;
        }
    }
    undone.rollback().await?;
    sqlx::query("SELECT pg_logical_emit_message(true, 'scoreline'::text, 'probe'::text) IS NOT NULL")
        .execute(&mut *transaction)
        .await?;
    transaction.commit().await
}
