//! What every request shares, and how it comes to be.

use std::sync::Arc;

use arc_swap::ArcSwap;
use secrecy::ExposeSecret;

use super::limits::Limits;
use super::measure::Measures;
use super::settings::{IngestConfig, LimitsConfig};
use crate::directory::Directory;
use crate::domain::clock::Clock;
use crate::http::failed_guesses::FailedGuesses;
use crate::http::settings::HttpConfig;
use crate::queue::enqueue::{Admission, EnqueueError, Enqueuer};
use crate::queue::settings::QueueConfig;
use crate::redis_connection::settings::RedisConfig;
use crate::runtime::lifecycle::Lifecycle;
use crate::telemetry::log_budget::LogBudget;

/// The configuration that ingest needs.
#[derive(Debug, Clone)]
pub struct DoorSettings {
    /// What is accepted.
    pub ingest: IngestConfig,
    /// Limits.
    pub limits: LimitsConfig,
    /// Body timeouts, trusted proxies.
    pub http: HttpConfig,
    /// The admission cap.
    pub queue: QueueConfig,
    /// Where the queue and the limits are.
    pub redis: RedisConfig,
}

/// What every request shares.
#[derive(Debug, Clone)]
pub struct IngestState(pub(super) Arc<Shared>);

#[derive(Debug)]
pub(super) struct Shared {
    pub settings: DoorSettings,
    pub directory: Arc<ArcSwap<Directory>>,
    pub clock: Clock,
    pub limits: Limits,
    pub guesses: FailedGuesses,
    pub enqueuer: Enqueuer,
    pub measures: Measures,
    /// Lines about faults of ours, and about what was refused: whoever is refused often must not hide an outage.
    pub fault_lines: LogBudget,
    pub refusal_lines: LogBudget,
}

impl IngestState {
    /// Whether the queue takes batches: for readiness.
    pub fn admission(&self) -> &Admission {
        self.0.enqueuer.admission()
    }
}

/// Connects to Redis, and watches the queue from then on until the process stops.
///
/// # Errors
/// A URL is unusable, or nobody answers for the queue.
pub async fn open(
    settings: DoorSettings,
    directory: Arc<ArcSwap<Directory>>,
    clock: Clock,
    lifecycle: &Lifecycle,
) -> Result<IngestState, EnqueueError> {
    let redis = &settings.redis;
    let queue_url = redis.redis_queue_url.as_ref().unwrap_or(&redis.redis_url).expose_secret();
    // Limits are with the queue unless they were given a place of their own: one call is cheaper than two.
    let limits_url = redis.redis_limits_url.as_ref().map(ExposeSecret::expose_secret);
    let max_jobs = settings.queue.queue_max_jobs;
    let enqueuer = Enqueuer::connect(queue_url, limits_url, &redis.redis_prefix, max_jobs, lifecycle).await?;
    let limits = Limits::new(settings.limits.clone());
    let measures = Measures::new();
    Ok(IngestState(Arc::new(Shared {
        settings,
        directory,
        clock,
        limits,
        guesses: FailedGuesses::default(),
        enqueuer,
        measures,
        fault_lines: LogBudget::default(),
        refusal_lines: LogBudget::default(),
    })))
}
