//! Keys of a game: made, listed and revoked by its studio.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use secrecy::ExposeSecret as _;
use serde::{Deserialize, Serialize};

use super::super::access::Studio;
use super::super::change::{ChangeBody, ChangePermit};
use super::super::error::ApiError;
use super::super::openapi::words;
use super::super::path::Named;
use super::super::problem::Problem;
use super::super::state::ApiState;
use crate::directory::KeyKind;
use crate::domain::clock::Micros;
use crate::domain::name::check_name;
use crate::services;
use crate::store::keys::{self, ApiKey};

/// A key without its secret.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[schema(as = ApiKey)]
pub struct KeyAnswer {
    /// Its number, by which it is revoked.
    id: i32,
    /// What it may do.
    #[schema(value_type = words::KeyKind)]
    kind: KeyKind,
    /// Its first characters.
    hint: String,
    /// What its owner calls it.
    label: Option<String>,
    /// RFC 3339.
    #[schema(value_type = String, format = DateTime)]
    created_at: Micros,
    /// RFC 3339, absent while it holds.
    #[schema(value_type = Option<String>, format = DateTime)]
    revoked_at: Option<Micros>,
}

impl From<ApiKey> for KeyAnswer {
    fn from(key: ApiKey) -> Self {
        Self {
            id: key.id,
            kind: key.kind,
            hint: key.hint,
            label: key.label,
            created_at: key.created_at,
            revoked_at: key.revoked_at,
        }
    }
}

/// A key that was just made.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct NewKey {
    /// The key itself: shown here and never again.
    key: String,
    /// What is remembered of it.
    #[serde(flatten)]
    stored: KeyAnswer,
}

impl From<services::keys::NewKey> for NewKey {
    fn from(new: services::keys::NewKey) -> Self {
        Self { key: new.secret.expose_secret().to_owned(), stored: new.stored.into() }
    }
}

/// A key to make.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct KeyRequest {
    /// `client` or `server`.
    #[schema(value_type = words::KeyKind)]
    kind: KeyKind,
    /// What to call it, at most 200 characters.
    #[schema(value_type = Option<words::Name>)]
    label: Option<String>,
}

/// Makes a key.
#[utoipa::path(
    post, path = "/v1/admin/keys", tag = "admin", security(("key" = [])), request_body = KeyRequest,
    params(("game" = Option<String>, Query, description = "With the admin token: the game")),
    responses((status = 201, body = NewKey))
)]
pub async fn create(State(state): State<ApiState>, studio: Studio, body: ChangeBody) -> Result<Response, ApiError> {
    let wanted: KeyRequest = body.json("{\"kind\": \"client\" or \"server\", \"label\": …}")?;
    let label = wanted.label.as_deref();
    if let Some(Err(problem)) = label.map(check_name) {
        return Err(Problem::bad_request("label_invalid", problem.to_string()).at("/label").into());
    }
    let author = studio.author(&state);
    let made = services::keys::create(&state.pool, studio.game.id, wanted.kind, label, &author).await?;
    state.directory_changed().await;
    Ok((StatusCode::CREATED, Json(NewKey::from(made))).into_response())
}

/// All keys of a game.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct KeyList {
    /// The newest first, revoked ones too.
    keys: Vec<KeyAnswer>,
}

/// All keys of a game, without their secrets.
#[utoipa::path(
    get, path = "/v1/admin/keys", tag = "admin", security(("key" = [])),
    params(("game" = Option<String>, Query, description = "With the admin token: the game")),
    responses((status = 200, body = KeyList))
)]
pub async fn list(State(state): State<ApiState>, studio: Studio) -> Result<Json<KeyList>, ApiError> {
    let keys = keys::list(&state.pool, studio.game.id).await?;
    Ok(Json(KeyList { keys: keys.into_iter().map(Into::into).collect() }))
}

/// Revokes a key: within a second nobody takes it any more, or once the directory's Redis is reached again.
#[utoipa::path(
    delete, path = "/v1/admin/keys/{id}", tag = "admin", security(("key" = [])),
    params(("id" = String, Path, description = "The key's number"),
           ("game" = Option<String>, Query, description = "With the admin token: the game")),
    responses((status = 200, body = KeyAnswer))
)]
pub async fn revoke(
    State(state): State<ApiState>,
    studio: Studio,
    Named(id): Named,
    _: ChangePermit,
) -> Result<Json<KeyAnswer>, ApiError> {
    let not_found = || Problem::not_found("key_not_found", "This game has no such key.");
    let id: i32 = id.parse().map_err(|_| not_found())?;
    let revoked = services::keys::revoke(&state.pool, Some(studio.game.id), id, studio.actor).await?;
    let revoked = revoked.ok_or_else(not_found)?;
    state.directory_changed().await;
    Ok(Json(revoked.into()))
}
