//! One attempt to store a group of rows: events and facts in one transaction (ARCHITECTURE.md#invariants).

use std::collections::HashSet;
use std::time::Duration;

use uuid::Uuid;

use crate::domain::clock::Micros;
use crate::domain::fact::fact_of;
use crate::domain::ids::GameId;
use crate::domain::packed_facts::{FactPacker, PackedFacts};
use crate::runtime::crash_points::crash_point;
use crate::store::definitions::{Definitions, GameDefinitions};
use crate::store::events::{self, EventRow};
use crate::store::facts;
use crate::store::failure::{Failure, classify, is_lock_timeout};
use crate::store::{Connection, Pool, StoreError};

/// How to write a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// COPY: a third cheaper, fails as a whole when one row is stored already.
    Copy,
    /// `INSERT … ON CONFLICT DO NOTHING RETURNING`.
    Careful,
}

/// What an attempt came to.
#[derive(Debug)]
pub enum Attempt {
    /// Committed.
    Stored {
        /// How many rows were new.
        new: usize,
        /// Whether score facts were written.
        facts: bool,
    },
    /// The definitions of these games changed since they were loaded: load them again and repeat. Nothing was written.
    StaleDefinitions(HashSet<GameId>),
    /// These games do not exist. Nothing was written.
    UnknownGames(HashSet<GameId>),
    /// The rows of these games are locked by others. Nothing was written.
    HeldGames(HashSet<GameId>),
}

/// Stores `rows` (sorted by month and key, each key once; stamped here with the generations of `definitions`) in one
/// transaction. Rows of one game may wait for the lock on it, for `patience`.
///
/// # Errors
/// [`StoreError`]; nothing was written, except that a failure during COMMIT leaves it open whether everything was:
/// repeating is always safe.
pub async fn store(
    pool: &Pool,
    rows: &mut [EventRow<'_>],
    way: Way,
    definitions: &Definitions,
    patience: Option<Duration>,
) -> Result<Attempt, StoreError> {
    let games = stamp(rows, definitions);
    let mut connection = pool.acquire().await?;
    let result = attempt(&mut connection, rows, &games, way, definitions, patience).await;
    if let Err(error) = &result
        && classify(error) != Failure::UniqueViolation
    {
        // After a broken COPY the connection's protocol state is unknown.
        connection.close_on_drop();
    }
    result
}

/// Writes the games' generations into the rows; returns the games, each once: rows of two months name them twice.
fn stamp(rows: &mut [EventRow<'_>], definitions: &Definitions) -> Vec<GameId> {
    let mut games = Vec::new();
    let mut generation = 0;
    for row in rows {
        if games.last() != Some(&row.game_id) {
            games.push(row.game_id);
            generation = definitions.game_generations.get(&row.game_id).copied().unwrap_or_default().generation;
        }
        row.definitions_generation = generation;
    }
    games.sort_unstable();
    games.dedup();
    games
}

async fn attempt(
    connection: &mut Connection,
    rows: &[EventRow<'_>],
    games: &[GameId],
    way: Way,
    definitions: &Definitions,
    patience: Option<Duration>,
) -> Result<Attempt, StoreError> {
    let mut transaction = events::begin(connection).await?;
    // COPY comes first: locking before it would hold the games' rows for the whole of a write that may fail.
    let new: Option<HashSet<(GameId, Uuid, Micros)>> = match way {
        Way::Copy => {
            events::copy_new(&mut transaction, rows).await?;
            None
        }
        Way::Careful => Some(events::insert_missing(&mut transaction, rows).await?),
    };
    // From here to the commit no definition of these games can change, so the stamps are true.
    let current = match (games, patience) {
        ([game], Some(patience)) => {
            match events::wait_for_definitions_generation(&mut transaction, *game, patience).await {
                Err(error) if is_lock_timeout(&error) => {
                    transaction.rollback().await?;
                    return Ok(Attempt::HeldGames([*game].into()));
                }
                current => current?,
            }
        }
        _ => events::lock_definitions_generations(&mut transaction, games).await?,
    };
    if current.len() < games.len() {
        // Their rows are locked, or they do not exist.
        let existing = events::existing_games(&mut transaction, games).await?;
        transaction.rollback().await?;
        let unknown: HashSet<GameId> = games.iter().copied().filter(|game| !existing.contains(game)).collect();
        if !unknown.is_empty() {
            return Ok(Attempt::UnknownGames(unknown));
        }
        let locked: HashSet<GameId> = current.iter().map(|(game, _)| *game).collect();
        return Ok(Attempt::HeldGames(existing.difference(&locked).copied().collect()));
    }
    let is_stale =
        |(game, generation): &&(GameId, GameDefinitions)| definitions.game_generations.get(game) != Some(generation);
    let stale: HashSet<GameId> = current.iter().filter(is_stale).map(|(game, _)| *game).collect();
    if !stale.is_empty() {
        transaction.rollback().await?;
        return Ok(Attempt::StaleDefinitions(stale));
    }
    let (count, packed) = match &new {
        None => (rows.len(), make_facts(rows.iter(), definitions)),
        Some(new) => (new.len(), make_facts(rows.iter().filter(|r| new.contains(&r.key())), definitions)),
    };
    facts::insert(&mut transaction, &packed).await?;
    crash_point("persist_events::before_commit");
    transaction.commit().await?;
    Ok(Attempt::Stored { new: count, facts: !packed.is_empty() })
}

/// What `rows`, all newly stored, mean to the leaderboards they feed.
fn make_facts<'a>(rows: impl Iterator<Item = &'a EventRow<'a>>, definitions: &Definitions) -> Vec<PackedFacts> {
    let mut packer = FactPacker::default();
    for row in rows {
        let Some(boards) = definitions.feeds.get(&row.game_id).and_then(|f| f.get(row.event.event_type)) else {
            continue;
        };
        let event = row.occurrence();
        for board in boards {
            if let Some(fact) = fact_of(board, &event) {
                packer.push(&fact, Some(row.game_id));
            }
        }
    }
    packer.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::event::Event;

    /// A game named twice looked like one that does not exist, and its rows were tried for ever.
    #[test]
    fn rows_of_two_months_name_each_game_once() {
        let row = |game| EventRow {
            game_id: GameId(game),
            event: Event {
                event_id: Uuid::nil(),
                event_type: "t",
                player_id: "p",
                session_id: None,
                schema_version: None,
                occurred_at: Micros(0),
                payload: "{}",
            },
            received_at: Micros(0),
            definitions_generation: 0,
            from_server: true,
        };
        let mut rows = [row(1), row(2), row(1), row(2)];
        let of = |generation| GameDefinitions { generation, ..GameDefinitions::default() };
        let game_generations = [(GameId(1), of(5)), (GameId(2), of(7))].into();
        let definitions = Definitions { game_generations, ..Definitions::default() };
        assert_eq!(stamp(&mut rows, &definitions), [GameId(1), GameId(2)]);
        assert_eq!(rows.map(|row| row.definitions_generation), [5, 7, 5, 7]);
    }
}
