//! What the aggregator knows of definitions: loaded once, again whenever they changed.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use uuid::Uuid;

use crate::domain::board::{CompiledBoard, GenerationState};
use crate::domain::ids::BoardGenerationId;
use crate::store::definitions::{self, Definitions};
use crate::store::{Pool, StoreError};

/// The definitions in memory, shared by the aggregator's tasks. What a generation counts never changes, so a stale
/// copy can only lack one (then it is reloaded) or hold one too many (the fold's transaction asks the database).
#[derive(Debug)]
pub struct Rules {
    pool: Pool,
    current: ArcSwap<Definitions>,
    version: Mutex<Option<(i64, Uuid)>>,
    readable_again: AtomicBool,
}

impl Rules {
    /// Knows nothing yet.
    pub fn new(pool: Pool) -> Self {
        Self { pool, current: ArcSwap::default(), version: Mutex::default(), readable_again: AtomicBool::default() }
    }

    /// The definitions as last loaded.
    pub fn current(&self) -> Arc<Definitions> {
        self.current.load_full()
    }

    /// Loads everything anew.
    pub async fn reload(&self) -> Result<(), StoreError> {
        let mut connection = self.pool.acquire().await?;
        // Read before the definitions, so that a change between the two is noticed next time.
        let version = definitions::version(&mut connection).await?;
        let loaded = Arc::new(definitions::load(&mut connection).await?);
        let before = self.current.swap(loaded.clone());
        loaded.tell_unreadable(&before);
        if before.unreadable.keys().any(|id| !loaded.unreadable.contains_key(id)) {
            self.readable_again.store(true, Ordering::Release);
        }
        *self.version.lock().unwrap_or_else(PoisonError::into_inner) = Some(version);
        Ok(())
    }

    /// Whether a definition that could not be read can be read, or is gone, since this was asked last. Whoever loaded
    /// it: facts may have been put aside for it between any two looks.
    pub fn take_readable_again(&self) -> bool {
        self.readable_again.swap(false, Ordering::AcqRel)
    }

    /// Loads everything anew if anything changed.
    pub async fn refresh(&self) -> Result<(), StoreError> {
        let version = {
            let mut connection = self.pool.acquire().await?;
            definitions::version(&mut connection).await?
        };
        let known = *self.version.lock().unwrap_or_else(PoisonError::into_inner);
        if known == Some(version) { Ok(()) } else { self.reload().await }
    }

    /// The definitions, loaded anew if one of these generations is not among them, readable or not. One that is not
    /// among them then is retired or gone.
    pub async fn covering(&self, generations: &[BoardGenerationId]) -> Result<Arc<Definitions>, StoreError> {
        let current = self.current();
        let is_known = |id| current.boards.contains_key(id) || current.unreadable.contains_key(id);
        if generations.iter().all(is_known) {
            return Ok(current);
        }
        self.reload().await?;
        Ok(self.current())
    }

    /// The boards that players see.
    pub fn live(&self) -> Vec<Arc<CompiledBoard>> {
        let current = self.current.load();
        let mut live: Vec<_> =
            current.boards.values().filter(|b| b.generation.state == GenerationState::Live).cloned().collect();
        live.sort_unstable_by_key(|b| b.generation.id);
        live
    }

    /// Every generation that Redis may hold, also those that this program cannot read.
    pub fn generations(&self) -> Vec<BoardGenerationId> {
        let current = self.current.load();
        let mut generations: Vec<_> = current.boards.keys().chain(current.unreadable.keys()).copied().collect();
        generations.sort_unstable();
        generations
    }

    /// One board.
    pub fn board(&self, generation: BoardGenerationId) -> Option<Arc<CompiledBoard>> {
        self.current.load().boards.get(&generation).cloned()
    }
}
