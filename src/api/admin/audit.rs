//! The audit that cron repeats.

use axum::Json;
use axum::extract::State;
use serde::Serialize;

use super::super::access::Operator;
use super::super::problem::Problem;
use super::super::state::ApiState;
use crate::store::scheduled_runs::{self, ScheduledRun};

/// The name of the periodic audit among cron's jobs.
const JOB: &str = "audit-boards";

/// What the periodic audit last found.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct LastAudit {
    /// `did` counts the entries of the sample that differed in Redis from Postgres; their leaderboards were rebuilt.
    /// Null: no audit has run yet.
    last: Option<ScheduledRun>,
}

/// What the periodic audit of a sample of all leaderboards last found. `scoreline audit` compares everything.
#[utoipa::path(
    get, path = "/v1/admin/audit", tag = "admin", security(("key" = [])),
    responses((status = 200, body = LastAudit)),
)]
pub async fn last(State(state): State<ApiState>, _: Operator) -> Result<Json<LastAudit>, Problem> {
    Ok(Json(LastAudit { last: scheduled_runs::last(&state.pool, JOB).await? }))
}
