//! A write of our own, which tells a server that takes no writes from work that it does not like.

use std::collections::BTreeMap;

use sqlx::{Connection, PgConnection};
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
use crate::domain::month::Month;
use crate::domain::packed_facts::PackedFacts;
use crate::domain::period::Period;

/// How long a write of our own waits for the lock on a month's table. Who asks has waited for it long enough.
const PATIENCE: &str = "100ms";

/// Writes what a group of events writes, one row into each table, and undoes it: an event of no game, of now by
/// Postgres's clock, the lock on games, facts. It needs the same rights and the same disk, and meets nothing of
/// anybody's data. Then it commits a message in the log that nobody reads: a server may take every row and commit
/// nothing, as when its stand-by is away. Returns the month whose table took the event.
///
/// # Errors
/// [`StoreError`]: the server, or its rights, are at fault.
pub async fn write_and_undo(pool: &Pool) -> Result<Option<Month>, StoreError> {
    let mut transaction = pool.begin().await?;
    let mut undone = transaction.begin().await?;
    let month = match event(&mut undone, None).await {
        // A month without a table is mended elsewhere; the server has looked at the row, and has still to take facts.
        Err(error) if classify(&error) == Failure::NoPartition => {
            undone.rollback().await?;
            undone = transaction.begin().await?;
            None
        }
        written => written?.map(Month::of),
    };
    events::lock_definitions_generations(&mut undone, &[]).await?;
    let (min_received_at, games, bytes) = (Micros::EPOCH, Vec::new(), Vec::new());
    facts::insert(&mut undone, &[PackedFacts { shard: 0, count: 0, min_received_at, games, bytes }]).await?;
    undone.rollback().await?;
    sqlx::query("SELECT pg_logical_emit_message(true, 'scoreline'::text, 'probe'::text) IS NOT NULL")
        .execute(&mut *transaction)
        .await?;
    transaction.commit().await?;
    Ok(month)
}

/// Writes an event of no game into one month's table, and undoes it. A month without a table refuses nothing: what
/// needs it has it made.
///
/// # Errors
/// [`StoreError`]: the month's table is at fault, if the server takes a write of now.
pub async fn write_and_undo_in(pool: &Pool, month: Month) -> Result<(), StoreError> {
    let mut undone = pool.begin().await?;
    sqlx::query("SELECT set_config('lock_timeout', $1, true)").bind(PATIENCE).execute(&mut *undone).await?;
    match event(&mut undone, Some(month.starts_at())).await {
        Err(error) if classify(&error) != Failure::NoPartition => Err(error),
        _ => undone.rollback().await,
    }
}

/// Writes an event of no game, of now where no moment is given; returns its moment, unless a trigger left it out.
async fn event(connection: &mut PgConnection, at: Option<Micros>) -> Result<Option<Micros>, StoreError> {
    sqlx::query_scalar(
        "INSERT INTO events (game_id, event_id, occurred_at, received_at, definitions_generation, from_server, type,
                             player_id, payload)
         VALUES (0, $1, coalesce($2, now()), now(), 0, true, 'probe', 'probe', '{}')
         RETURNING occurred_at",
    )
    .bind(Uuid::new_v4())
    .bind(at)
    .fetch_optional(connection)
    .await
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
