//! What the aggregator knows of definitions: loaded once, again whenever they changed.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use crate::store::pool::Pool;
use arc_swap::ArcSwap;

use crate::domain::board::{CompiledBoard, GenerationState};
use crate::domain::ids::BoardGenerationId;
use crate::store::definitions::{self, Definitions};

/// The definitions in memory, shared by the aggregator's tasks. What a generation counts never changes, so a stale
/// copy can only lack one (then it is reloaded) or hold one too many (the fold's transaction asks the database).
#[derive(Debug)]
pub struct Rules {
    pool: Pool,
    current: ArcSwap<Definitions>,
    version: AtomicI64,
}

impl Rules {
    /// Knows nothing yet.
    pub fn new(pool: Pool) -> Self {
        Self { pool, current: ArcSwap::default(), version: AtomicI64::new(-1) }
    }

    /// The definitions as last loaded.
    pub fn current(&self) -> Arc<Definitions> {
        self.current.load_full()
    }

    /// Loads everything anew.
    ///
    /// # Errors
    /// Whatever Postgres says.
    pub async fn reload(&self) -> Result<(), sqlx::Error> {
        let mut connection = self.pool.acquire().await?;
        // Read before the definitions, so that a change between the two is noticed next time.
        let version = definitions::version(&mut connection).await?;
        self.current.store(Arc::new(definitions::load(&mut connection).await?));
        self.version.store(version, Ordering::Relaxed);
        Ok(())
    }

    /// Loads everything anew if anything changed.
    ///
    /// # Errors
    /// Whatever Postgres says.
    pub async fn refresh(&self) -> Result<(), sqlx::Error> {
        let version = {
            let mut connection = self.pool.acquire().await?;
            definitions::version(&mut connection).await?
        };
        if version == self.version.load(Ordering::Relaxed) { Ok(()) } else { self.reload().await }
    }

    /// The boards that players see.
    pub fn live(&self) -> Vec<Arc<CompiledBoard>> {
        let current = self.current.load();
        let mut live: Vec<_> =
            current.boards.values().filter(|b| b.generation.state == GenerationState::Live).cloned().collect();
        live.sort_unstable_by_key(|b| b.generation.id);
        live
    }

    /// One board.
    pub fn board(&self, generation: BoardGenerationId) -> Option<Arc<CompiledBoard>> {
        self.current.load().boards.get(&generation).cloned()
    }
}
