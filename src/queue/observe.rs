//! The queue as metrics: what operators scale workers on and are woken by.

use std::time::Duration;

use metrics::gauge;
use tokio_util::sync::CancellationToken;

use super::client::Queue;
use super::keys::Lane;
use super::status::QueueStatus;
use crate::telemetry::metrics::{QUEUE_BLOCKED_GAMES, QUEUE_DEPTH, QUEUE_OLDEST_SECONDS};

/// How often it looks.
const INTERVAL: Duration = Duration::from_secs(2);
/// The lane of jobs that are counted in no lane.
const ANY_LANE: &str = "any";

/// Measures the queue for `role` until `stop`. While Redis is away the gauges keep what was seen last; `/readyz` says
/// that it is.
pub async fn observe(queue: Queue, role: &'static str, stop: CancellationToken) {
    loop {
        match queue.status().await {
            Ok(status) => show(&status, role),
            Err(error) => tracing::debug!(%error, "the queue could not be measured"),
        }
        if tokio::time::timeout(INTERVAL, stop.cancelled()).await.is_ok() {
            return;
        }
    }
}

fn show(status: &QueueStatus, role: &'static str) {
    gauge!(QUEUE_BLOCKED_GAMES, "role" => role).set(status.blocked.len() as f64);
    for lane in Lane::ALL {
        gauge!(QUEUE_OLDEST_SECONDS, "role" => role, "lane" => lane.name()).set(status.oldest_seconds(lane));
    }
    let outside =
        [("suspect", status.suspect), ("delayed", status.delayed), ("held", status.held()), ("dead", status.dead)];
    let waiting = status.lanes.iter().map(|lane| (lane.lane.name(), "waiting", lane.waiting));
    for (lane, state, jobs) in waiting.chain(outside.map(|(state, jobs)| (ANY_LANE, state, jobs))) {
        gauge!(QUEUE_DEPTH, "role" => role, "lane" => lane, "state" => state).set(jobs as f64);
    }
}
