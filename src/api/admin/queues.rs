//! The job queue, as operators see and hold it.

use axum::Json;
use axum::extract::State;
use serde::Serialize;

use super::super::access::Operator;
use super::super::change::ChangePermit;
use super::super::error::ApiError;
use super::super::path::Named;
use super::super::problem::Problem;
use super::super::state::ApiState;
use crate::domain::ids::GameId;
use crate::services::queues::{self, BlockedReport, LaneReport, QueueReport, WorkerReport};

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

impl From<LaneReport> for LaneAnswer {
    fn from(LaneReport { lane, waiting, oldest_seconds }: LaneReport) -> Self {
        Self { lane, waiting, oldest_seconds }
    }
}

impl From<WorkerReport> for WorkerAnswer {
    fn from(WorkerReport { name, held, oldest_running_seconds }: WorkerReport) -> Self {
        Self { name, held, oldest_running_seconds }
    }
}

impl From<BlockedReport> for BlockedAnswer {
    fn from(BlockedReport { game_id, job_id, error }: BlockedReport) -> Self {
        Self { game_id, job_id, error }
    }
}

impl From<QueueReport> for QueueAnswer {
    fn from(report: QueueReport) -> Self {
        Self {
            name: report.name,
            paused: report.paused,
            lanes: report.lanes.into_iter().map(Into::into).collect(),
            running: report.running,
            suspect: report.suspect,
            delayed: report.delayed,
            dead: report.dead,
            jobs: report.jobs,
            blocked: report.blocked.into_iter().map(Into::into).collect(),
            workers: report.workers.into_iter().map(Into::into).collect(),
            totals: report.totals,
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
    Ok(Json(QueueList { queues: vec![read(&state).await?] }))
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
    _: ChangePermit,
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
    _: ChangePermit,
) -> Result<Json<QueueAnswer>, ApiError> {
    hold(&state, &name, false).await
}

async fn hold(state: &ApiState, name: &str, paused: bool) -> Result<Json<QueueAnswer>, ApiError> {
    if name != state.queue_name {
        return Err(Problem::not_found("queue_not_found", "There is no such queue.").into());
    }
    queues::hold(&state.pool, &state.queue, name, paused, Operator::ACTOR).await?;
    Ok(Json(read(state).await?))
}

async fn read(state: &ApiState) -> Result<QueueAnswer, ApiError> {
    Ok(QueueReport::new(&state.queue_name, state.queue.status().await?).into())
}
