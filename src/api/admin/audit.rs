//! The audit that cron repeats.

use axum::Json;
use axum::extract::State;
use serde::Serialize;

use super::super::access::Operator;
use super::super::error::ApiError;
use super::super::state::ApiState;
use crate::domain::clock::Micros;
use crate::store::scheduled_runs::{self, ScheduledRun};

/// The name of the periodic audit among cron's jobs.
const JOB: &str = "audit-boards";

/// The last run of a job.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[schema(as = ScheduledRun)]
pub struct RunAnswer {
    /// When it ended, RFC 3339.
    #[schema(value_type = String, format = DateTime)]
    ended_at: Micros,
    /// `done`, `failed` or `panicked`.
    outcome: String,
    /// What it did, in its own unit.
    did: i64,
}

impl From<ScheduledRun> for RunAnswer {
    fn from(run: ScheduledRun) -> Self {
        Self { ended_at: run.ended_at, outcome: run.outcome, did: run.did }
    }
}

/// What the periodic audit last found.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct LastAudit {
    /// `did` counts the entries of the sample that differed in Redis from Postgres; their leaderboards were rebuilt.
    /// Null: no audit has run yet.
    last: Option<RunAnswer>,
}

/// What the periodic audit of a sample of all leaderboards last found. `scoreline audit` compares everything.
#[utoipa::path(
    get, path = "/v1/admin/audit", tag = "admin", security(("key" = [])),
    responses((status = 200, body = LastAudit)),
)]
pub async fn last(State(state): State<ApiState>, _: Operator) -> Result<Json<LastAudit>, ApiError> {
    Ok(Json(LastAudit { last: scheduled_runs::last(&state.pool, JOB).await?.map(Into::into) }))
}
