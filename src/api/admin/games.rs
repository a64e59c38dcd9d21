//! Games: created and limited by operators.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Deserializer, Serialize};

use super::super::access::Operator;
use super::super::change::ChangeBody;
use super::super::error::ApiError;
use super::super::openapi::words;
use super::super::path::Named;
use super::super::problem::{Problem, no_such_game};
use super::super::state::ApiState;
use super::keys::NewKey;
use crate::domain::clock::Micros;
use crate::domain::ids::{GameId, Slug};
use crate::domain::name::check_name;
use crate::services;
use crate::store::games::{self, Game, GameEdit};

/// A game.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[schema(as = Game)]
pub struct GameAnswer {
    /// Its number.
    #[schema(value_type = i32)]
    id: GameId,
    /// Its name in URLs.
    slug: String,
    /// Its name for people.
    name: String,
    /// Events a minute per player; absent: the process's default; 0: off.
    limit_player_events: Option<i32>,
    /// Events a minute in all; likewise.
    limit_game_events: Option<i32>,
    /// When it was created, RFC 3339.
    #[schema(value_type = String, format = DateTime)]
    created_at: Micros,
}

impl From<Game> for GameAnswer {
    fn from(game: Game) -> Self {
        Self {
            id: game.id,
            slug: game.slug,
            name: game.name,
            limit_player_events: game.limit_player_events,
            limit_game_events: game.limit_game_events,
            created_at: game.created_at,
        }
    }
}

/// A game to create.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewGame {
    /// Its name in URLs.
    #[schema(value_type = words::Slug)]
    slug: Slug,
    /// Its name for people; the slug when absent.
    #[schema(value_type = Option<words::Name>)]
    name: Option<String>,
}

/// A game that was created, with its first keys: they are shown here and never again.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct CreatedGame {
    /// The game.
    game: GameAnswer,
    /// For the game's binary.
    client_key: NewKey,
    /// For the studio's servers.
    server_key: NewKey,
}

impl From<services::games::NewGame> for CreatedGame {
    fn from(new: services::games::NewGame) -> Self {
        Self { game: new.game.into(), client_key: new.client_key.into(), server_key: new.server_key.into() }
    }
}

/// Creates a game with a client and a server key.
#[utoipa::path(
    post, path = "/v1/admin/games", tag = "admin", security(("key" = [])), request_body = NewGame,
    responses((status = 201, body = CreatedGame))
)]
pub async fn create(State(state): State<ApiState>, _: Operator, body: ChangeBody) -> Result<Response, ApiError> {
    let new: NewGame = body.json("{\"slug\": …, \"name\": …}")?;
    let name = usable_name(new.name.as_deref())?.unwrap_or(new.slug.as_str());
    let created = services::games::create(&state.pool, &new.slug, name, Operator::ACTOR).await?.ok_or_else(|| {
        Problem::new(StatusCode::CONFLICT, "game_exists", "There is a game of this name already.").at("/slug")
    })?;
    state.directory_changed().await;
    Ok((StatusCode::CREATED, Json(CreatedGame::from(created))).into_response())
}

fn usable_name(name: Option<&str>) -> Result<Option<&str>, Problem> {
    match name.map(check_name) {
        Some(Err(problem)) => Err(Problem::bad_request("name_invalid", problem.to_string()).at("/name")),
        Some(Ok(())) | None => Ok(name),
    }
}

/// All games.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct GameList {
    /// By slug.
    games: Vec<GameAnswer>,
}

/// All games.
#[utoipa::path(
    get, path = "/v1/admin/games", tag = "admin", security(("key" = [])),
    responses((status = 200, body = GameList))
)]
pub async fn list(State(state): State<ApiState>, _: Operator) -> Result<Json<GameList>, ApiError> {
    let games = games::list(&state.pool).await?;
    Ok(Json(GameList { games: games.into_iter().map(Into::into).collect() }))
}

/// What to change of a game; what is absent stays, null goes back to the default.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct GameChange {
    /// Its name for people.
    #[schema(value_type = Option<words::Name>)]
    name: Option<String>,
    /// Events a minute per player; 0: off.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<u32>)]
    limit_player_events: Option<Option<u32>>,
    /// Events a minute in all; 0: off.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<u32>)]
    limit_game_events: Option<Option<u32>>,
}

/// Tells `null` from absent.
fn present<'de, D: Deserializer<'de>>(d: D) -> Result<Option<Option<u32>>, D::Error> {
    Option::<u32>::deserialize(d).map(Some)
}

/// Changes a game's name and limits.
#[utoipa::path(
    patch, path = "/v1/admin/games/{slug}", tag = "admin", security(("key" = [])), request_body = GameChange,
    params(("slug" = String, Path, description = "The game")),
    responses((status = 200, body = GameAnswer))
)]
pub async fn edit(
    State(state): State<ApiState>,
    _: Operator,
    Named(slug): Named,
    body: ChangeBody,
) -> Result<Json<GameAnswer>, ApiError> {
    let change: GameChange =
        body.json("{\"name\": …, \"limit_player_events\": …, \"limit_game_events\": …}, each optional")?;
    let name = usable_name(change.name.as_deref())?;
    let slug = Slug::parse(&slug).map_err(|_| no_such_game())?;
    let game = games::by_slug(&state.pool, slug.as_str()).await?.ok_or_else(no_such_game)?;
    let stored = |limit: Option<u32>| limit.map(|l| i32::try_from(l).unwrap_or(i32::MAX));
    let edit = GameEdit {
        name,
        limit_player_events: change.limit_player_events.map(stored),
        limit_game_events: change.limit_game_events.map(stored),
    };
    let mut transaction = state.pool.begin().await?;
    let edited = games::edit(&mut transaction, game.id, &edit, Operator::ACTOR).await?.ok_or_else(no_such_game)?;
    transaction.commit().await?;
    state.directory_changed().await;
    Ok(Json(edited.into()))
}
