//! Partitions, rebuild, recompute.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use super::super::access::{Operator, Studio};
use super::super::change::ChangePermit;
use super::super::error::ApiError;
use super::super::path::Named;
use super::super::problem::{Problem, rebuilding};
use super::super::state::ApiState;
use crate::domain::clock::Micros;
use crate::ranking::RebuildError;
use crate::services;
use crate::services::board_rebuild::RebuildBoardError;
use crate::services::leaderboards::RequestedRebuild;
use crate::store::partitions;

/// A month of events.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct PartitionAnswer {
    /// Its table.
    name: String,
    /// Inclusive, RFC 3339.
    #[schema(value_type = String, format = DateTime)]
    starts_at: Micros,
    /// Exclusive, RFC 3339.
    #[schema(value_type = String, format = DateTime)]
    ends_at: Micros,
    /// Estimated; null while Postgres has not analysed the table.
    rows: Option<u64>,
    /// With indexes.
    bytes: i64,
}

/// All months of events.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct PartitionList {
    /// The oldest first.
    partitions: Vec<PartitionAnswer>,
}

impl From<(partitions::Partition, i64)> for PartitionAnswer {
    fn from((partition, bytes): (partitions::Partition, i64)) -> Self {
        Self {
            name: partition.name,
            starts_at: partition.range_start,
            ends_at: partition.range_end,
            rows: u64::try_from(partition.estimated_rows).ok(),
            bytes,
        }
    }
}

/// The partitions of the events table.
#[utoipa::path(
    get, path = "/v1/admin/partitions", tag = "admin", security(("key" = [])),
    responses((status = 200, body = PartitionList))
)]
pub async fn list_partitions(State(state): State<ApiState>, _: Operator) -> Result<Json<PartitionList>, ApiError> {
    let all = partitions::list_with_bytes(&mut *state.pool.acquire().await?).await?;
    Ok(Json(PartitionList { partitions: all.into_iter().map(Into::into).collect() }))
}

/// What a rebuild wrote.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct Rebuilt {
    /// Periods.
    periods: u64,
    /// Entries of all of them.
    entries: u64,
    /// The board's version from now on.
    version: i64,
}

/// Writes a leaderboard to Redis anew from the entries in Postgres. It stays readable meanwhile.
#[utoipa::path(
    post, path = "/v1/admin/leaderboards/{slug}/rebuild", tag = "admin", security(("key" = [])),
    params(("slug" = String, Path, description = "The leaderboard"),
           ("game" = Option<String>, Query, description = "With the admin token: the game")),
    responses((status = 200, body = Rebuilt))
)]
pub async fn rebuild(
    State(state): State<ApiState>,
    studio: Studio,
    Named(slug): Named,
) -> Result<Json<Rebuilt>, ApiError> {
    let entry = studio.game.leaderboards.get(slug.as_str()).ok_or_else(super::leaderboards::not_found)?;
    let live = entry.live.clone().ok_or_else(rebuilding)?;
    let (id, order, author) = (live.generation.id, live.generation.spec.definition.order, studio.author(&state));
    let requested = RequestedRebuild::begin(&state.pool, studio.game.id, &slug, id, order, &author).await?;
    // In a task of its own: a client that goes away does not leave half of it to expire.
    let work = state.clone();
    let rebuilding = tokio::spawn(async move { requested.run(&work.pool, &work.ranking, "api", |_| ()).await });
    match rebuilding.await {
        Ok(Ok(done)) => Ok(Json(Rebuilt { periods: done.periods, entries: done.entries, version: done.version })),
        Ok(Err(RebuildBoardError::Rebuild(RebuildError::Busy))) => {
            let detail = "This leaderboard is being rebuilt already.";
            Err(Problem::new(StatusCode::CONFLICT, "rebuild_under_way", detail).into())
        }
        failed => {
            tracing::warn!(slug, ?failed, "a rebuild failed");
            let detail = "The rebuild did not finish; the leaderboard is as it was.";
            Err(Problem::unavailable("rebuild_failed", detail, 5).into())
        }
    }
}

/// Computes a leaderboard anew from the stored events, beside the live one; `GET` shows how far it is.
#[utoipa::path(
    post, path = "/v1/admin/leaderboards/{slug}/recompute", tag = "admin", security(("key" = [])),
    params(("slug" = String, Path, description = "The leaderboard"),
           ("game" = Option<String>, Query, description = "With the admin token: the game")),
    responses((status = 202, body = super::leaderboards::ManagedLeaderboard))
)]
pub async fn recompute(
    State(state): State<ApiState>,
    studio: Studio,
    Named(slug): Named,
    _: ChangePermit,
) -> Result<Response, ApiError> {
    let stored = super::leaderboards::stored(&state, &studio, &slug).await?;
    services::leaderboards::recompute(&state.pool, studio.game.id, &stored, &studio.author(&state)).await?;
    state.directory_changed().await;
    let shown = super::leaderboards::find(&state, &studio, &slug).await?;
    Ok((StatusCode::ACCEPTED, Json(shown)).into_response())
}
