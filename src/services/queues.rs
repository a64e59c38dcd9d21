//! The job queue, as operators see and hold it.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::json;

use crate::domain::ids::GameId;
use crate::queue::blocked::BlockedGame;
use crate::queue::status::{LaneStatus, QueueStatus, WorkerStatus};
use crate::queue::{Queue, QueueError};
use crate::store::audit_log::{self, Actor, Change};
use crate::store::{Pool, StoreError};

/// Why a queue, or a job in it, was not changed.
#[derive(Debug, thiserror::Error)]
pub enum QueueChangeError {
    /// The queue's Redis is away or full.
    #[error(transparent)]
    Queue(#[from] QueueError),
    /// Postgres failed.
    #[error(transparent)]
    Postgres(#[from] StoreError),
}

/// One lane of a queue.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LaneReport {
    /// `high` or `low`.
    pub lane: &'static str,
    /// Waiting jobs.
    pub waiting: u64,
    /// Seconds since the oldest of them was received.
    pub oldest_seconds: f64,
}

/// A live worker.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct WorkerReport {
    /// Its name.
    pub name: String,
    /// Jobs in its hands.
    pub held: u64,
    /// How long the oldest of them has been there.
    pub oldest_running_seconds: f64,
}

/// A game with a job that is set aside.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct BlockedReport {
    /// The game's number.
    pub game_id: GameId,
    /// One such job.
    pub job_id: String,
    /// What its last attempt met.
    pub error: String,
}

/// A queue at one moment, in what operators count by.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct QueueReport {
    /// Its name.
    pub name: String,
    /// Held by an operator.
    pub paused: bool,
    /// `high` first.
    pub lanes: Vec<LaneReport>,
    /// Jobs in workers' hands.
    pub running: u64,
    /// Rescued jobs that wait to run alone.
    pub suspect: u64,
    /// Waiting for their next attempt.
    pub delayed: u64,
    /// Dead letters on their way to Postgres.
    pub dead: u64,
    /// Every job that Redis knows.
    pub jobs: u64,
    /// Games with jobs that are set aside.
    pub blocked: Vec<BlockedReport>,
    /// Live workers.
    pub workers: Vec<WorkerReport>,
    /// Running totals: pushed, done, retried, rescued, dead …
    pub totals: BTreeMap<String, u64>,
}

impl QueueReport {
    /// The report of a status.
    pub fn new(name: &str, status: QueueStatus) -> Self {
        let lane = |lane: &LaneStatus| LaneReport {
            lane: lane.lane.name(),
            waiting: lane.waiting,
            oldest_seconds: status.oldest_seconds(lane.lane),
        };
        let worker = |worker: &WorkerStatus| WorkerReport {
            name: worker.name.clone(),
            held: worker.held,
            oldest_running_seconds: worker.oldest_running_ms as f64 / 1e3,
        };
        let blocked = |blocked: &BlockedGame| BlockedReport {
            game_id: blocked.game,
            job_id: blocked.job.clone(),
            error: blocked.error.clone(),
        };
        Self {
            name: name.to_owned(),
            paused: status.paused,
            lanes: status.lanes.iter().map(lane).collect(),
            running: status.held(),
            suspect: status.suspect,
            delayed: status.delayed,
            dead: status.dead,
            jobs: status.jobs,
            blocked: status.blocked.iter().map(blocked).collect(),
            workers: status.workers.iter().map(worker).collect(),
            totals: status.totals,
        }
    }
}

/// Holds a queue, or lets it go on. While it is held, workers finish what they have and take nothing new, and ingest
/// goes on.
///
/// # Errors
/// [`QueueChangeError`]; the audit log says that it was begun, or that it failed.
pub async fn hold(pool: &Pool, queue: &Queue, name: &str, paused: bool, actor: Actor) -> Result<(), QueueChangeError> {
    let action = if paused { "queue.pause" } else { "queue.resume" };
    let change = Change { actor, action, game: None, subject: name, detail: json!({}) };
    let begun = audit_log::begin(pool, &change).await?;
    let held = if paused { queue.pause().await } else { queue.resume().await };
    begun.ended(pool, &held).await;
    Ok(held?)
}
