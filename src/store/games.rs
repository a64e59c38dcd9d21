//! Tenants.

use crate::store::{Pool, StoreError};
use sqlx::PgConnection;

use super::audit_log::{Actor, Change, record};
use crate::domain::clock::Micros;
use crate::domain::ids::{GameId, Slug};

/// A game.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Game {
    /// Its number.
    pub id: GameId,
    /// Its name in URLs.
    pub slug: String,
    /// Its name for people.
    pub name: String,
    /// Events a minute per player; absent: the process's default; 0: off.
    pub limit_player_events: Option<i32>,
    /// Events a minute in all; likewise.
    pub limit_game_events: Option<i32>,
    /// When it was created, RFC 3339.
    pub created_at: Micros,
}

type GameRow = (i32, String, String, Option<i32>, Option<i32>, Micros);

fn from_row((id, slug, name, limit_player_events, limit_game_events, created_at): GameRow) -> Game {
    Game { id: GameId(id), slug, name, limit_player_events, limit_game_events, created_at }
}

/// Creates a game; `None`: there is one of that name.
pub async fn create(
    transaction: &mut PgConnection,
    slug: &Slug,
    name: &str,
    actor: Actor,
) -> Result<Option<Game>, StoreError> {
    let row: Option<GameRow> = sqlx::query_as(
        "INSERT INTO games (slug, name) VALUES ($1, $2) ON CONFLICT (slug) DO NOTHING
         RETURNING id, slug, name, limit_player_events, limit_game_events, created_at",
    )
    .bind(slug.as_str())
    .bind(name)
    .fetch_optional(&mut *transaction)
    .await?;
    let Some(game) = row.map(from_row) else { return Ok(None) };
    let detail = serde_json::json!({ "name": name });
    let change = Change { actor, action: "game.create", game: Some(game.id), subject: slug.as_str(), detail };
    record(transaction, &change).await?;
    super::directory::changed(transaction).await?;
    Ok(Some(game))
}

/// A game by its name.
pub async fn by_slug(pool: &Pool, slug: &str) -> Result<Option<Game>, StoreError> {
    let row: Option<GameRow> = sqlx::query_as(
        "SELECT id, slug, name, limit_player_events, limit_game_events, created_at FROM games WHERE slug = $1",
    )
    .bind(slug)
    .fetch_optional(pool)
    .await?;
    Ok(row.map(from_row))
}

/// All games, by name.
pub async fn list(pool: &Pool) -> Result<Vec<Game>, StoreError> {
    let rows: Vec<GameRow> = sqlx::query_as(
        "SELECT id, slug, name, limit_player_events, limit_game_events, created_at FROM games ORDER BY slug",
    )
    .fetch_all(pool)
    .await?;
    Ok(rows.into_iter().map(from_row).collect())
}

/// What may be changed of a game.
#[derive(Debug, Clone, Default)]
pub struct GameEdit<'a> {
    /// Its name for people.
    pub name: Option<&'a str>,
    /// Events a minute per player: `Some(None)` goes back to the default.
    pub limit_player_events: Option<Option<i32>>,
    /// Events a minute in all; likewise.
    pub limit_game_events: Option<Option<i32>>,
}

/// Changes a game; what is `None` stays. `None`: there is no such game.
pub async fn edit(
    transaction: &mut PgConnection,
    id: GameId,
    edit: &GameEdit<'_>,
    actor: Actor,
) -> Result<Option<Game>, StoreError> {
    let row: Option<GameRow> = sqlx::query_as(
        "UPDATE games SET name = coalesce($2, name),
                limit_player_events = CASE WHEN $3 THEN $4 ELSE limit_player_events END,
                limit_game_events = CASE WHEN $5 THEN $6 ELSE limit_game_events END
          WHERE id = $1
         RETURNING id, slug, name, limit_player_events, limit_game_events, created_at",
    )
    .bind(id.0)
    .bind(edit.name)
    .bind(edit.limit_player_events.is_some())
    .bind(edit.limit_player_events.flatten())
    .bind(edit.limit_game_events.is_some())
    .bind(edit.limit_game_events.flatten())
    .fetch_optional(&mut *transaction)
    .await?;
    let Some(game) = row.map(from_row) else { return Ok(None) };
    let detail = serde_json::json!({
        "name": game.name,
        "limit_player_events": game.limit_player_events,
        "limit_game_events": game.limit_game_events,
    });
    let change = Change { actor, action: "game.edit", game: Some(id), subject: &game.slug, detail };
    record(transaction, &change).await?;
    super::directory::changed(transaction).await?;
    Ok(Some(game))
}
