//! What the work of cron is given: its services, its settings, and whom it tells.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::settings::RetentionConfig;
use crate::domain::clock::{Clock, Micros};
use crate::domain::low_water::LowWater;
use crate::ranking::Ranking;
use crate::store::{Pool, StoreError};

/// Tells what is under way in the queue of jobs received until a moment, and the queue's own clock, because that is
/// what stamps `received_at`.
pub type QueueLowWater = Arc<dyn Fn(Micros) -> BoxFuture<'static, Result<LowWater, String>> + Send + Sync>;
/// Tells Postgres's time.
pub type DatabaseClock = Arc<dyn Fn() -> BoxFuture<'static, Result<Micros, StoreError>> + Send + Sync>;
/// Tells somebody that something happened; must not block.
pub type Announce = Arc<dyn Fn() + Send + Sync>;

/// What scheduled jobs work with.
#[derive(Clone)]
pub struct Context {
    /// Postgres.
    pub pool: Pool,
    /// Leaderboards in Redis.
    pub ranking: Ranking,
    /// The time.
    pub clock: Clock,
    /// This process, in lease rows.
    pub holder: String,
    /// How long things are kept.
    pub retention: RetentionConfig,
    /// The oldest event that ingest accepts (`MAX_EVENT_AGE_SECONDS`).
    pub max_event_age_seconds: u32,
    /// How far the queue is.
    pub queue_low_water: QueueLowWater,
    /// What time Postgres thinks it is.
    pub database_clock: DatabaseClock,
    /// Facts were committed: the aggregator should fold.
    pub announce_facts: Announce,
    /// Games or leaderboards changed: the directory should be published.
    pub directory_changed: Announce,
    /// Notified when a leaderboard was created or edited; without it, it is found a second later all the same.
    pub recompute_wanted: Arc<Notify>,
    /// Take nothing new.
    pub stop: CancellationToken,
}

impl std::fmt::Debug for Context {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Context").field("holder", &self.holder).finish_non_exhaustive()
    }
}
