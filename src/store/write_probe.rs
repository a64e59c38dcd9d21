//! A write of our own, which tells a server that takes no writes from work that it does not like.

use std::collections::BTreeMap;

use sqlx::Connection;
use uuid::Uuid;

use super::entries::{self, FreshEntry};
use super::failure::{Failure, classify};
use super::fold_periods::{self, Hold, Of};
use super::{Pool, StoreError, board_versions, events, facts, markers};
use crate::domain::board::{Operator, Order};
use crate::domain::clock::Micros;
use crate::domain::entry::EntryState;
use crate::domain::fact::Fact;
use crate::domain::ids::BoardGenerationId;
use crate::domain::packed_facts::PackedFacts;
use crate::domain::period::Period;

/// Writes what a group of events writes, one row into each table, and undoes it: an event of no game at `at`, the lock
/// on games, facts. It needs the same rights and the same disk, and meets nothing of anybody's data. Then it commits a
/// message in the log that nobody reads: a server may take every row and commit nothing, as when its stand-by is away.
///
/// # Errors
/// [`StoreError`]: the server, or its rights, are at fault.
pub async fn write_and_undo(pool: &Pool, at: Micros) -> Result<(), StoreError> {
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
        // A month without a table is mended elsewhere; the server has looked at the row, and has still to take facts.
        Err(error) if classify(&error) == Failure::NoPartition => {
            undone.rollback().await?;
            undone = transaction.begin().await?;
        }
        other => {
            other?;
        }
    }
    events::lock_definitions_generations(&mut undone, &[]).await?;
    let none = PackedFacts { shard: 0, count: 0, min_received_at: at, games: Vec::new(), bytes: Vec::new() };
    facts::insert(&mut undone, &[none]).await?;
    undone.rollback().await?;
    sqlx::query("SELECT pg_logical_emit_message(true, 'scoreline'::text, 'probe'::text) IS NOT NULL")
        .execute(&mut *transaction)
        .await?;
    transaction.commit().await
}

/// Writes what a fold writes, a period, an entry, a marker and a version, and undoes it: of some leaderboard but this,
/// another each time. Says whether that was possible: not where there is no leaderboard.
///
/// # Errors
/// [`StoreError`]: the server, or its rights, are at fault.
pub async fn fold_and_undo(pool: &Pool, but: Option<BoardGenerationId>) -> Result<bool, StoreError> {
    let mut transaction = pool.begin().await?;
    let some = sqlx::query_scalar::<_, i32>(
        "SELECT id FROM leaderboard_generations WHERE state <> 'retired' AND id IS DISTINCT FROM $1
          ORDER BY random() LIMIT 1",
    );
    let some = some.bind(but.map(|board| board.0)).fetch_optional(&mut *transaction).await?;
    let Some(generation) = some else { return Ok(false) };
    let place = (BoardGenerationId(generation), Period::WHOLE);
    fold_periods::create(&mut transaction, &[place]).await?;
    let found = fold_periods::lock(&mut transaction, Hold::Shared, Of::Generation, &[place]).await?;
    let Some((_, period)) = found.first() else { return Ok(false) };
    let fact = Fact {
        generation: place.0,
        period: place.1,
        player_id: "probe",
        score: 0,
        subscore: 0,
        occurred_at: Micros::EPOCH,
        event_id: Uuid::nil(),
        received_at: Micros::EPOCH,
        metadata: None,
    };
    let state = EntryState::from_fact(Operator::Best, &fact);
    let (period_id, operator, order) = (period.id, Operator::Best, Order::Descending);
    let version = markers::next_version(&mut transaction).await?;
    let entry = FreshEntry { period_id, player_id: fact.player_id, operator, order, state: &state };
    entries::merge(&mut transaction, version, &[entry]).await?;
    markers::insert(&mut transaction, 0, &[]).await?;
    board_versions::note(&mut transaction, &BTreeMap::from([(generation, 1)]), version).await?;
    transaction.rollback().await?;
    Ok(true)
}
