//! How builds share: who has had a turn makes room for others, and few read history at one moment.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::Instant;

/// Builds that read history at one moment: each has one of the pool's few connections for as long as a chunk takes.
const CHUNKS_AT_ONCE: usize = 2;
/// How long a build goes on while others wait for room.
const TURN: Duration = Duration::from_secs(3);

/// What builds that are under way share.
#[derive(Debug)]
pub(super) struct Room {
    chunks: Semaphore,
    others_wait: AtomicBool,
}

impl Default for Room {
    fn default() -> Self {
        Self { chunks: Semaphore::new(CHUNKS_AT_ONCE), others_wait: AtomicBool::new(false) }
    }
}

impl Room {
    /// Whether others wait for a turn.
    pub(super) fn others_wait(&self, wait: bool) {
        self.others_wait.store(wait, Ordering::Relaxed);
    }
}

/// A build's turn. It begins when it is first asked whether it is over, so that every turn brings the build further.
#[derive(Debug)]
pub struct Turn {
    room: Arc<Room>,
    ends_at: OnceLock<Instant>,
}

impl Turn {
    /// For a build that shares with nobody.
    pub fn alone() -> Self {
        Self::new(&Arc::default())
    }

    /// For a build that shares with the others in this room.
    pub(super) fn new(room: &Arc<Room>) -> Self {
        Self { room: Arc::clone(room), ends_at: OnceLock::new() }
    }

    /// Whether it has lasted long enough, now that others wait.
    pub fn is_over(&self) -> bool {
        let now = Instant::now();
        let ends_at = self.ends_at.get_or_init(|| now + TURN);
        self.room.others_wait.load(Ordering::Relaxed) && now >= *ends_at
    }

    /// Waits until it may read a chunk, in the order of asking; it may until what is returned is dropped.
    pub async fn chunk(&self) -> Option<SemaphorePermit<'_>> {
        // It is never closed, so this is always some.
        self.room.chunks.acquire().await.ok()
    }
}
