//! Leaderboards: created, edited and deleted by the game's studio
//! (docs/rules.md#definitions-change-while-workers-run).

use axum::Json;
use axum::extract::{RawQuery, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use super::super::access::Studio;
use super::super::change::{ChangeBody, ChangePermit};
use super::super::error::ApiError;
use super::super::openapi::words::LeaderboardDefinition;
use super::super::path::Named;
use super::super::problem::Problem;
use super::super::state::ApiState;
use crate::domain::board::LeaderboardSpec;
use crate::domain::board_text::parse_spec;
use crate::domain::clock::Micros;
use crate::domain::ids::{BoardGenerationId, Slug};
use crate::services;
use crate::services::leaderboards::EditError;
use crate::store::leaderboards::{self, Applied, Building, StoredLeaderboard};

/// How far the recompute of a generation is.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[schema(as = Building)]
pub struct BuildingAnswer {
    /// `leaderboard_generations.id`.
    #[schema(value_type = i32)]
    generation: BoardGenerationId,
    /// Stored events read so far.
    events_scanned: i64,
    /// Stored events to read, once counted.
    events_total: Option<i64>,
}

impl From<Building> for BuildingAnswer {
    fn from(building: Building) -> Self {
        Self {
            generation: building.generation,
            events_scanned: building.events_scanned,
            events_total: building.events_total,
        }
    }
}

/// What writing a leaderboard did.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = Applied)]
pub enum AppliedAnswer {
    /// It is new.
    Created,
    /// What counts has changed: a new generation replaces the old one when it is computed.
    Recomputing,
    /// Only how it is shown has changed.
    Shown,
    /// It was exactly so already.
    Unchanged,
}

impl From<Applied> for AppliedAnswer {
    fn from(applied: Applied) -> Self {
        match applied {
            Applied::Created => Self::Created,
            Applied::Recomputing => Self::Recomputing,
            Applied::Shown => Self::Shown,
            Applied::Unchanged => Self::Unchanged,
        }
    }
}

/// A leaderboard as its studio sees it.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct ManagedLeaderboard {
    /// The definition as last written: what `PUT` takes.
    #[schema(value_type = LeaderboardDefinition)]
    definition: LeaderboardSpec,
    /// `live`: players see this definition. `building`: it is being computed; until then they see the one before,
    /// if there was one.
    state: &'static str,
    /// Whether players see anything.
    readable: bool,
    /// How far the computation is, while there is one.
    building: Option<BuildingAnswer>,
    /// RFC 3339.
    #[schema(value_type = String, format = DateTime)]
    created_at: Micros,
    /// RFC 3339.
    #[schema(value_type = String, format = DateTime)]
    updated_at: Micros,
}

impl From<StoredLeaderboard> for ManagedLeaderboard {
    fn from(stored: StoredLeaderboard) -> Self {
        Self {
            state: if stored.building.is_some() { "building" } else { "live" },
            readable: stored.live.is_some(),
            building: stored.building.map(Into::into),
            created_at: stored.created_at,
            updated_at: stored.updated_at,
            definition: stored.spec,
        }
    }
}

/// A leaderboard after writing it.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct WrittenLeaderboard {
    /// What writing it did.
    result: AppliedAnswer,
    /// The leaderboard.
    #[serde(flatten)]
    leaderboard: ManagedLeaderboard,
}

/// Creates a leaderboard, or edits the one of that slug.
#[utoipa::path(
    post, path = "/v1/admin/leaderboards", tag = "admin", security(("key" = [])),
    request_body(content = LeaderboardDefinition, description = "A leaderboard's definition; `slug` is required"),
    params(("game" = Option<String>, Query, description = "With the admin token: the game"),
           ("accept_incomplete_history" = Option<bool>, Query, description = "Count from the stored events only")),
    responses((status = 201, body = WrittenLeaderboard), (status = 200, body = WrittenLeaderboard))
)]
pub async fn create(
    State(state): State<ApiState>,
    studio: Studio,
    RawQuery(query): RawQuery,
    body: ChangeBody,
) -> Result<Response, ApiError> {
    let spec = parse_spec(&body.0, None)?;
    write(&state, &studio, &spec, query.as_deref().unwrap_or_default()).await
}

/// Creates or edits the leaderboard of this slug.
#[utoipa::path(
    put, path = "/v1/admin/leaderboards/{slug}", tag = "admin", security(("key" = [])),
    request_body(content = LeaderboardDefinition, description = "A leaderboard's definition; its slug may be left out"),
    params(("slug" = String, Path, description = "The leaderboard"),
           ("game" = Option<String>, Query, description = "With the admin token: the game"),
           ("accept_incomplete_history" = Option<bool>, Query, description = "Count from the stored events only")),
    responses((status = 201, body = WrittenLeaderboard), (status = 200, body = WrittenLeaderboard))
)]
pub async fn put(
    State(state): State<ApiState>,
    studio: Studio,
    Named(slug): Named,
    RawQuery(query): RawQuery,
    body: ChangeBody,
) -> Result<Response, ApiError> {
    let spec = parse_spec(&body.0, Some(&slug))?;
    write(&state, &studio, &spec, query.as_deref().unwrap_or_default()).await
}

async fn write(state: &ApiState, studio: &Studio, spec: &LeaderboardSpec, query: &str) -> Result<Response, ApiError> {
    let accept =
        query.split('&').any(|pair| matches!(pair, "accept_incomplete_history=true" | "accept_incomplete_history=1"));
    let (game, author) = (studio.game.id, studio.author(state));
    let written = services::leaderboards::write(&state.pool, &state.ranking, game, spec, accept, &author).await?;
    if let Some(error) = &written.not_opened {
        tracing::warn!(%error, "a new leaderboard could not be opened; cron will");
    }
    if written.result != Applied::Unchanged {
        state.directory_changed().await;
    }
    let status = if written.result == Applied::Created { StatusCode::CREATED } else { StatusCode::OK };
    let shown = WrittenLeaderboard { result: written.result.into(), leaderboard: written.stored.into() };
    Ok((status, Json(shown)).into_response())
}

impl From<EditError> for ApiError {
    fn from(error: EditError) -> Self {
        match error {
            EditError::NotFound => not_found().into(),
            EditError::Definition(error) => error.into(),
            EditError::Bound(error) => error.into(),
            EditError::Postgres(error) => error.into(),
        }
    }
}

/// `404`.
pub fn not_found() -> Problem {
    Problem::not_found("leaderboard_not_found", "There is no such leaderboard.")
}

/// One leaderboard of the studio's game.
///
/// # Errors
/// `404`, or Postgres is away.
pub async fn find(state: &ApiState, studio: &Studio, slug: &str) -> Result<ManagedLeaderboard, ApiError> {
    stored(state, studio, slug).await.map(Into::into)
}

/// As [`find`], as it is stored.
///
/// # Errors
/// As [`find`].
pub async fn stored(state: &ApiState, studio: &Studio, slug: &str) -> Result<StoredLeaderboard, ApiError> {
    Ok(services::leaderboards::find(&state.pool, studio.game.id, slug).await?.ok_or_else(not_found)?)
}

/// All leaderboards of a game.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct ManagedList {
    /// By slug.
    leaderboards: Vec<ManagedLeaderboard>,
}

/// All leaderboards of a game, with their definitions and how far they are.
#[utoipa::path(
    get, path = "/v1/admin/leaderboards", tag = "admin", security(("key" = [])),
    params(("game" = Option<String>, Query, description = "With the admin token: the game")),
    responses((status = 200, body = ManagedList))
)]
pub async fn list(State(state): State<ApiState>, studio: Studio) -> Result<Json<ManagedList>, ApiError> {
    let all = leaderboards::list(&state.pool, studio.game.id).await?;
    Ok(Json(ManagedList { leaderboards: all.into_iter().map(Into::into).collect() }))
}

/// One leaderboard.
#[utoipa::path(
    get, path = "/v1/admin/leaderboards/{slug}", tag = "admin", security(("key" = [])),
    params(("slug" = String, Path, description = "The leaderboard"),
           ("game" = Option<String>, Query, description = "With the admin token: the game")),
    responses((status = 200, body = ManagedLeaderboard))
)]
pub async fn show(
    State(state): State<ApiState>,
    studio: Studio,
    Named(slug): Named,
) -> Result<Json<ManagedLeaderboard>, ApiError> {
    find(&state, &studio, &slug).await.map(Json)
}

/// Deletes a leaderboard: gone for readers at once; events are kept.
#[utoipa::path(
    delete, path = "/v1/admin/leaderboards/{slug}", tag = "admin", security(("key" = [])),
    params(("slug" = String, Path, description = "The leaderboard"),
           ("game" = Option<String>, Query, description = "With the admin token: the game")),
    responses((status = 204, description = "It is gone"))
)]
pub async fn delete(
    State(state): State<ApiState>,
    studio: Studio,
    Named(slug): Named,
    _: ChangePermit,
) -> Result<StatusCode, ApiError> {
    let slug = Slug::parse(&slug).map_err(|_| not_found())?;
    let author = studio.author(&state);
    services::leaderboards::delete(&state.pool, studio.game.id, slug.as_str(), &author).await?;
    state.directory_changed().await;
    Ok(StatusCode::NO_CONTENT)
}
