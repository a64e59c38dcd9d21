//! What the aggregator knows of definitions: loaded once, again whenever they changed.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use uuid::Uuid;

use crate::domain::board::{CompiledBoard, GenerationState};
use crate::domain::ids::BoardGenerationId;
use crate::store::definitions::{self, Definitions};
use crate::store::{Connection, Pool, StoreError};

/// The definitions in memory, shared by the aggregator's tasks. What a generation counts never changes, so a stale
/// copy can only lack one (then it is reloaded) or hold one too many (the fold's transaction asks the database).
#[derive(Debug)]
pub struct Rules {
    pool: Pool,
    latest: Latest,
    readable_again: AtomicBool,
}

/// What was read last. Several read at once, and one that is slow to make sense of it comes after those that have read
/// something newer.
#[derive(Debug, Default)]
struct Latest {
    definitions: ArcSwap<Definitions>,
    begun: AtomicU64,
    read: Mutex<Read>,
}

/// Which reading the definitions are of, and their version.
#[derive(Debug, Default)]
struct Read {
    nth: u64,
    version: Option<(i64, Uuid)>,
}

impl Latest {
    /// A reading begins; says which one it is.
    fn reading(&self) -> u64 {
        self.begun.fetch_add(1, Ordering::AcqRel) + 1
    }

    /// Takes what a reading brought, unless a later one was taken before. Returns what there was.
    fn take(&self, nth: u64, version: (i64, Uuid), definitions: Arc<Definitions>) -> Option<Arc<Definitions>> {
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        if nth < read.nth {
            return None;
        }
        *read = Read { nth, version: Some(version) };
        Some(self.definitions.swap(definitions))
    }

    fn version(&self) -> Option<(i64, Uuid)> {
        self.read.lock().unwrap_or_else(PoisonError::into_inner).version
    }
}

impl Rules {
    /// Knows nothing yet.
    pub fn new(pool: Pool) -> Self {
        Self { pool, latest: Latest::default(), readable_again: AtomicBool::default() }
    }

    /// The definitions as last loaded.
    pub fn current(&self) -> Arc<Definitions> {
        self.latest.definitions.load_full()
    }

    /// Loads everything anew.
    pub async fn reload(&self) -> Result<(), StoreError> {
        let mut connection = self.pool.acquire().await?;
        self.load(&mut connection).await.map(drop)
    }

    async fn load(&self, connection: &mut Connection) -> Result<Arc<Definitions>, StoreError> {
        let nth = self.latest.reading();
        // Read before the definitions, so that a change between the two is noticed next time.
        let version = definitions::version(connection).await?;
        let loaded = Arc::new(definitions::load(connection).await?);
        if let Some(before) = self.latest.take(nth, version, Arc::clone(&loaded)) {
            loaded.tell_unreadable(&before);
            if before.unreadable.keys().any(|id| !loaded.unreadable.contains_key(id)) {
                self.readable_again.store(true, Ordering::Release);
            }
        }
        Ok(loaded)
    }

    /// Whether a definition that could not be read can be read, or is gone, since this was asked last. Whoever loaded
    /// it: facts may have been put aside for it between any two looks.
    pub fn take_readable_again(&self) -> bool {
        self.readable_again.swap(false, Ordering::AcqRel)
    }

    /// Loads everything anew if anything changed.
    pub async fn refresh(&self) -> Result<(), StoreError> {
        let mut connection = self.pool.acquire().await?;
        self.refresh_on(&mut connection).await.map(drop)
    }

    /// As [`refresh`](Self::refresh), for who has a connection; and the definitions.
    pub async fn refresh_on(&self, connection: &mut Connection) -> Result<Arc<Definitions>, StoreError> {
        let version = definitions::version(connection).await?;
        if self.latest.version() == Some(version) { Ok(self.current()) } else { self.load(connection).await }
    }

    /// The definitions, loaded anew if one of these generations is not among them, readable or not. One that is not
    /// among them then is retired or gone. Asked on the fold's own connection: its transaction waits for no other.
    pub async fn covering(
        &self,
        connection: &mut Connection,
        generations: &[BoardGenerationId],
    ) -> Result<Arc<Definitions>, StoreError> {
        let current = self.current();
        let is_known = |id| current.boards.contains_key(id) || current.unreadable.contains_key(id);
        if generations.iter().all(is_known) { Ok(current) } else { self.load(connection).await }
    }

    /// The boards that players see.
    pub fn live(&self) -> Vec<Arc<CompiledBoard>> {
        let current = self.latest.definitions.load();
        let mut live: Vec<_> =
            current.boards.values().filter(|b| b.generation.state == GenerationState::Live).cloned().collect();
        live.sort_unstable_by_key(|b| b.generation.id);
        live
    }

    /// Every generation that Redis may hold, also those that this program cannot read.
    pub fn generations(&self) -> Vec<BoardGenerationId> {
        let current = self.latest.definitions.load();
        let mut generations: Vec<_> = current.boards.keys().chain(current.unreadable.keys()).copied().collect();
        generations.sort_unstable();
        generations
    }

    /// One board.
    pub fn board(&self, generation: BoardGenerationId) -> Option<Arc<CompiledBoard>> {
        self.latest.definitions.load().boards.get(&generation).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::ids::GameId;

    fn of_games(games: i32) -> Arc<Definitions> {
        let game_generations = (0..games).map(|game| (GameId(game), Default::default())).collect();
        Arc::new(Definitions { game_generations, ..Definitions::default() })
    }

    #[test]
    fn a_slow_reader_takes_nothing_newer_away() {
        let latest = Latest::default();
        let (slow, quick) = (latest.reading(), latest.reading());
        assert!(latest.take(quick, (2, Uuid::nil()), of_games(2)).is_some());
        assert!(latest.take(slow, (1, Uuid::nil()), of_games(1)).is_none());
        assert_eq!((latest.definitions.load().game_generations.len(), latest.version().unwrap().0), (2, 2));
        // What is read later counts, whatever its version: it goes back with the database.
        assert!(latest.take(latest.reading(), (1, Uuid::nil()), of_games(1)).is_some());
        assert_eq!((latest.definitions.load().game_generations.len(), latest.version().unwrap().0), (1, 1));
    }
}
