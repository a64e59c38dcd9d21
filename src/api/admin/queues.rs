//! The job queue, as operators see and hold it.

use axum::Json;
use axum::extract::State;
use serde::Serialize;

use super::super::access::Operator;
use super::super::error::ApiError;
use super::super::path::Named;
use super::super::problem::Problem;
use super::super::state::ApiState;
use crate::domain::ids::GameId;
use crate::queue::Lane;
use crate::queue::blocked::BlockedGame;
use crate::queue::status::QueueStatus;
use crate::store::audit_log::{self, Change};

/// One lane of a queue.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct LaneAnswer {
    /// `high` or `low`.
    lane: &'static str,
    /// Waiting jobs.
    waiting: u64,
    /// Seconds since the oldest of them was received.
    oldest_seconds: f64,
}

/// A live worker.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct WorkerAnswer {
    /// Its name.
    name: String,
    /// Jobs in its hands.
    held: u64,
    /// How long the oldest of them has been there.
    oldest_running_seconds: f64,
}

/// A game with a job that is set aside: it fails while others succeed, and is tried again by itself.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct BlockedAnswer {
    /// The game's number.
    #[schema(value_type = i32)]
    game_id: GameId,
    /// One such job.
    job_id: String,
    /// What its last attempt met.
    error: String,
}

/// A queue at one moment.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct QueueAnswer {
    /// Its name.
    name: String,
    /// Held by an operator.
    paused: bool,
    /// `high` first.
    lanes: Vec<LaneAnswer>,
    /// Jobs in workers' hands.
    running: u64,
    /// Rescued jobs that wait to run alone.
    suspect: u64,
    /// Waiting for their next attempt.
    delayed: u64,
    /// Dead letters on their way to Postgres.
    dead: u64,
    /// Every job that Redis knows.
    jobs: u64,
    /// Games with jobs that are set aside.
    blocked: Vec<BlockedAnswer>,
    /// Live workers.
    workers: Vec<WorkerAnswer>,
    /// Running totals: pushed, done, retried, rescued, dead …
    totals: std::collections::BTreeMap<String, u64>,
}

impl QueueAnswer {
    /// A status as answered.
    pub fn new(name: &str, status: QueueStatus) -> Self {
        let lane = |lane: &crate::queue::status::LaneStatus| LaneAnswer {
            lane: if lane.lane == Lane::High { "high" } else { "low" },
            waiting: lane.waiting,
            oldest_seconds: status.oldest_seconds(lane.lane),
        };
        let worker = |worker: &crate::queue::status::WorkerStatus| WorkerAnswer {
            name: worker.name.clone(),
            held: worker.held,
            oldest_running_seconds: worker.oldest_running_ms as f64 / 1e3,
        };
        let blocked = |blocked: &BlockedGame| BlockedAnswer {
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

/// All queues.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct QueueList {
    queues: Vec<QueueAnswer>,
}

/// Depth per lane, oldest age, workers and totals of every queue.
#[utoipa::path(
    get, path = "/v1/admin/queues", tag = "admin", security(("key" = [])),
    responses((status = 200, body = QueueList))
)]
pub async fn list(State(state): State<ApiState>, _: Operator) -> Result<Json<QueueList>, ApiError> {
    let status = state.queue.status().await?;
    Ok(Json(QueueList { queues: vec![QueueAnswer::new(&state.queue_name, status)] }))
}

/// Holds a queue: workers finish what they have and take nothing new; ingest goes on.
#[utoipa::path(
    post, path = "/v1/admin/queues/{name}/pause", tag = "admin", security(("key" = [])),
    params(("name" = String, Path, description = "The queue")),
    responses((status = 200, body = QueueAnswer))
)]
pub async fn pause(
    State(state): State<ApiState>,
    _: Operator,
    Named(name): Named,
) -> Result<Json<QueueAnswer>, ApiError> {
    hold(&state, &name, true).await
}

/// Lets workers go on.
#[utoipa::path(
    post, path = "/v1/admin/queues/{name}/resume", tag = "admin", security(("key" = [])),
    params(("name" = String, Path, description = "The queue")),
    responses((status = 200, body = QueueAnswer))
)]
pub async fn resume(
    State(state): State<ApiState>,
    _: Operator,
    Named(name): Named,
) -> Result<Json<QueueAnswer>, ApiError> {
    hold(&state, &name, false).await
}

async fn hold(state: &ApiState, name: &str, paused: bool) -> Result<Json<QueueAnswer>, ApiError> {
    if name != state.queue_name {
        return Err(Problem::not_found("queue_not_found", "There is no such queue.").into());
    }
    let action = if paused { "queue.pause" } else { "queue.resume" };
    let detail = serde_json::json!({});
    let change = Change { actor: Operator::ACTOR, action, game: None, subject: name, detail };
    let begun = audit_log::begin(&state.pool, &change).await?;
    let held = if paused { state.queue.pause().await } else { state.queue.resume().await };
    begun.ended(&state.pool, &held).await;
    held?;
    Ok(Json(QueueAnswer::new(name, state.queue.status().await?)))
}
