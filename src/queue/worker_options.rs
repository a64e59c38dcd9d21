//! How a worker works.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::payload::Kind;
use crate::domain::retry::RetryPolicy;

/// Most jobs that a worker may have in hand.
pub const MOST_JOBS: usize = 1_000;

/// How a worker works. The defaults are those of `docs/configuration.md`.
#[derive(Debug, Clone)]
pub struct WorkerOptions {
    /// Most jobs in hand (at most 1,000).
    pub max_in_hand: usize,
    /// Most jobs of one fetch (at most 250).
    pub max_per_fetch: usize,
    /// A worker whose heartbeat was seen unchanged for this long is dead. Ten beats or more.
    pub lease: Duration,
    /// How long running jobs may take to finish at a stop.
    pub grace: Duration,
    /// Fetches of a busy worker start this far apart, so that each brings several jobs.
    pub spacing: Duration,
    /// An idle worker looks at the queue this often, should no announcement reach it.
    pub poll: Duration,
    /// The same while it hears no announcements.
    pub poll_unsubscribed: Duration,
    /// Deaths of a worker that ran a job alone which make that job a dead letter.
    pub max_crashes: u32,
    /// When a failed job of each kind is tried again.
    pub retry: fn(Kind) -> RetryPolicy,
    /// Told with each heartbeat.
    pub oldest_in_hand: Arc<OldestInHand>,
}

/// How long the oldest job has been in a worker's hands.
#[derive(Debug, Default)]
pub struct OldestInHand(Mutex<Option<Instant>>);

impl OldestInHand {
    /// `None`: the hands are empty.
    pub fn age(&self) -> Option<Duration> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).map(|since| since.elapsed())
    }

    pub(super) fn set(&self, since: Option<Instant>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = since;
    }
}

impl Default for WorkerOptions {
    fn default() -> Self {
        Self {
            max_in_hand: MOST_JOBS,
            max_per_fetch: 250,
            lease: Duration::from_secs(6),
            grace: Duration::from_secs(20),
            spacing: Duration::from_millis(20),
            poll: Duration::from_secs(2),
            poll_unsubscribed: Duration::from_millis(50),
            max_crashes: 3,
            retry: Kind::retry_policy,
            oldest_in_hand: Arc::default(),
        }
    }
}
