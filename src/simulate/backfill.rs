//! A history written straight into Postgres: what a game would have left behind had it been played for a while. For
//! trying out how an installation behaves once it has grown; no queue, no limits, no receipts.

use std::time::Duration;

use tokio::task::JoinHandle;

use super::players::{Players, SimulatedEvent};
use crate::domain::clock::Micros;
use crate::domain::event::Event;
use crate::domain::ids::GameId;
use crate::store::events::{EventRow, copy_new};
use crate::store::partitions::{self, EnsureError};
use crate::store::{Pool, StoreError};

/// Events of one transaction.
const GROUP: u64 = 5_000;
/// The definitions generation of all of them: older than any, so that each recompute counts them
/// (docs/rules.md#definitions-change-while-workers-run).
const BEFORE_ALL: i32 = 0;

/// What to write.
#[derive(Debug, Clone, Copy)]
pub struct Backfill {
    /// Whose events.
    pub game: GameId,
    /// How many play.
    pub players: usize,
    /// How many events.
    pub events: u64,
    /// The moment of the last event.
    pub until: Micros,
    /// How long before that the first one happened.
    pub over: Duration,
    /// Which game; the same gives the same.
    pub seed: u64,
}

/// Why a history was not written, or not all of it.
#[derive(Debug, thiserror::Error)]
pub enum BackfillError {
    /// Postgres failed; `23505` when the very same history was written before.
    #[error("Postgres: {0}")]
    Postgres(#[from] StoreError),
    /// The partitions of these months could not be made.
    #[error(transparent)]
    Partitions(#[from] EnsureError),
    /// A writer did not end as it should.
    #[error("a writer ended early: {0}")]
    Writer(#[from] tokio::task::JoinError),
}

/// Writes the events, in transactions of their own, evenly over the time; tells `progress` how many are stored.
///
/// Leaderboards do not count them until they are recomputed.
///
/// # Errors
/// [`BackfillError`]; what was committed before stays.
pub async fn backfill(pool: &Pool, wanted: Backfill, progress: impl Fn(u64)) -> Result<(), BackfillError> {
    let micros = i64::try_from(wanted.over.as_micros()).unwrap_or(i64::MAX);
    let from = Micros(wanted.until.0.saturating_sub(micros));
    partitions::ensure(pool, from, wanted.until).await?;
    let mut players = Players::new(wanted.players, wanted.seed);
    let mut writing: Option<JoinHandle<Result<u64, StoreError>>> = None;
    let (mut made, mut stored) = (0, 0);
    while made < wanted.events {
        let count = GROUP.min(wanted.events - made);
        let at = |n: u64| Micros(from.0 + (i128::from(micros) * i128::from(n) / i128::from(wanted.events)) as i64);
        let events: Vec<SimulatedEvent> = (made..made + count).map(|n| players.next_event(at(n))).collect();
        made += count;
        // One group is written while the next one is made.
        if let Some(before) = writing.replace(tokio::spawn(write(pool.clone(), wanted.game, events))) {
            stored += before.await??;
            progress(stored);
        }
    }
    if let Some(last) = writing {
        stored += last.await??;
        progress(stored);
    }
    Ok(())
}

async fn write(pool: Pool, game_id: GameId, events: Vec<SimulatedEvent>) -> Result<u64, StoreError> {
    let payloads: Vec<String> = events.iter().map(|e| e.payload.to_string()).collect();
    let mut rows: Vec<EventRow<'_>> = events
        .iter()
        .zip(&payloads)
        .map(|(event, payload)| EventRow {
            game_id,
            event: Event {
                event_id: event.event_id,
                event_type: event.event_type,
                player_id: &event.player_id,
                session_id: Some(&event.session_id),
                schema_version: None,
                occurred_at: event.occurred_at,
                payload,
            },
            received_at: event.occurred_at,
            definitions_generation: BEFORE_ALL,
            from_server: true,
        })
        .collect();
    rows.sort_by_key(EventRow::key);
    let mut transaction = pool.begin().await?;
    copy_new(&mut transaction, &rows).await?;
    transaction.commit().await?;
    Ok(rows.len() as u64)
}
