//! Who changed what.

use axum::Json;
use axum::extract::{RawQuery, State};
use serde::Serialize;

use super::super::access::StudioOrOperator;
use super::super::error::ApiError;
use super::super::query::{number, parse_limit, text};
use super::super::state::ApiState;
use crate::domain::clock::Micros;
use crate::store::audit_log::{RecordedChange, latest};

/// A recorded change.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[schema(as = RecordedChange)]
pub struct ChangeAnswer {
    /// Grows with time.
    id: i64,
    /// When, RFC 3339.
    #[schema(value_type = String, format = DateTime)]
    at: Micros,
    /// Who: `admin`, `cli` or `key:<number>`.
    actor: String,
    /// What.
    action: String,
    /// On what.
    subject: String,
    /// More about it.
    detail: serde_json::Value,
}

impl From<RecordedChange> for ChangeAnswer {
    fn from(change: RecordedChange) -> Self {
        Self {
            id: change.id,
            at: change.at,
            actor: change.actor,
            action: change.action,
            subject: change.subject,
            detail: change.detail,
        }
    }
}

/// Changes.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct AuditLog {
    /// The newest first.
    changes: Vec<ChangeAnswer>,
}

/// The latest changes: of a game, or all (admin token).
#[utoipa::path(
    get, path = "/v1/admin/audit-log", tag = "admin", security(("key" = [])),
    params(("game" = Option<String>, Query, description = "With the admin token: of one game only"),
           ("limit" = Option<u16>, Query, minimum = 1, maximum = 1000, description = "Most changes; 100 by default"),
           ("before" = Option<i64>, Query, description = "Older than the change with this id")),
    responses((status = 200, body = AuditLog))
)]
pub async fn list(
    State(state): State<ApiState>,
    who: StudioOrOperator,
    RawQuery(query): RawQuery,
) -> Result<Json<AuditLog>, ApiError> {
    let query = query.unwrap_or_default();
    let limit = text(&query, "limit").map(|limit| parse_limit(&limit)).transpose()?.unwrap_or(100);
    let before = number(&query, "before")?;
    let changes = latest(&state.pool, who.game.map(|g| g.id), before, limit as i64).await?;
    Ok(Json(AuditLog { changes: changes.into_iter().map(Into::into).collect() }))
}
