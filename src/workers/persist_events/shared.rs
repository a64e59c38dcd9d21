//! What the writers of a process share.

use std::sync::{Arc, Mutex};

use metrics::Counter;
use tokio_util::sync::CancellationToken;

use super::probe::Probe;
use super::seen::Seen;
use crate::store::definitions::Definitions;
use crate::store::pool::Pool;
use crate::workers::health::WorkHealth;

/// What the writers of a process share.
#[derive(Debug)]
pub struct Shared {
    /// The worker's connections.
    pub pool: Pool,
    /// Definitions as last loaded.
    pub definitions: arc_swap::ArcSwap<Definitions>,
    /// Keys stored lately.
    pub seen: Mutex<Seen>,
    /// Stops waiting for Postgres: what is in hand goes back to the queue.
    pub hard: CancellationToken,
    /// The queue's name, for dead letters.
    pub queue: String,
    /// Tells whose fault it is.
    pub probe: Probe,
    /// For `/readyz`.
    pub health: Arc<WorkHealth>,
    /// Handles of the metrics.
    pub metrics: WriteMetrics,
}

/// Counters of what writers did.
#[derive(Clone)]
pub struct WriteMetrics {
    /// Events that were new.
    pub inserted: Counter,
    /// Events that were stored before.
    pub duplicate: Counter,
}

impl std::fmt::Debug for WriteMetrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("WriteMetrics")
    }
}

/// The process is stopping: the group was not stored.
#[derive(Debug, Clone, Copy)]
pub struct Stopped;
