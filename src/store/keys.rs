//! API keys: shown once, stored as SHA-256.

use crate::store::{Pool, StoreError};
use base64::Engine as _;
use secrecy::SecretString;
use sqlx::PgConnection;

use super::audit_log::{Actor, Change, record};
use crate::domain::clock::Micros;
use crate::domain::ids::GameId;
use crate::domain::keys::{KeyKind, hash_key};

/// How many characters of a key are kept, so that people can tell keys apart.
const HINT_LEN: usize = 14;

/// A key without its secret.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct ApiKey {
    /// Its number, by which it is revoked.
    pub id: i32,
    /// What it may do.
    pub kind: KeyKind,
    /// Its first characters.
    pub hint: String,
    /// What its owner calls it.
    pub label: Option<String>,
    /// RFC 3339.
    pub created_at: Micros,
    /// RFC 3339, absent while it holds.
    pub revoked_at: Option<Micros>,
}

type KeyRow = (i32, String, String, Option<String>, Micros, Option<Micros>);

fn from_row((id, kind, hint, label, created_at, revoked_at): KeyRow) -> ApiKey {
    let kind = if kind == "server" { KeyKind::Server } else { KeyKind::Client };
    ApiKey { id, kind, hint, label, created_at, revoked_at }
}

/// Makes a key of a game from 192 random bits. The text is returned here and kept nowhere.
pub async fn create(
    transaction: &mut PgConnection,
    game: GameId,
    kind: KeyKind,
    label: Option<&str>,
    actor: Actor,
    random: [u8; 24],
) -> Result<(ApiKey, SecretString), StoreError> {
    let text = format!("sl_{}_{}", kind.name(), base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(random));
    let hint = text.get(..HINT_LEN).unwrap_or_default();
    let row: KeyRow = sqlx::query_as(
        "INSERT INTO api_keys (game_id, kind, key_sha256, hint, label) VALUES ($1, $2, $3, $4, $5)
         RETURNING id, kind, hint, label, created_at, revoked_at",
    )
    .bind(game.0)
    .bind(kind.name())
    .bind(hash_key(&text).as_slice())
    .bind(hint)
    .bind(label)
    .fetch_one(&mut *transaction)
    .await?;
    let key = from_row(row);
    let detail = serde_json::json!({ "kind": kind, "hint": hint, "label": label });
    let subject = key.id.to_string();
    let change = Change { actor, action: "key.create", game: Some(game), subject: &subject, detail };
    record(transaction, &change).await?;
    super::directory::changed(transaction).await?;
    Ok((key, SecretString::from(text)))
}

/// All keys of a game, the newest first.
pub async fn list(pool: &Pool, game: GameId) -> Result<Vec<ApiKey>, StoreError> {
    let rows: Vec<KeyRow> = sqlx::query_as(
        "SELECT id, kind, hint, label, created_at, revoked_at FROM api_keys WHERE game_id = $1 ORDER BY id DESC",
    )
    .bind(game.0)
    .fetch_all(pool)
    .await?;
    Ok(rows.into_iter().map(from_row).collect())
}

/// Revokes a key; of `game` only, where one is given. Again: nothing changes, and nothing is recorded. `None`: there
/// is no such key.
pub async fn revoke(
    transaction: &mut PgConnection,
    game: Option<GameId>,
    id: i32,
    actor: Actor,
) -> Result<Option<ApiKey>, StoreError> {
    let revoked: Option<i32> = sqlx::query_scalar(
        "UPDATE api_keys SET revoked_at = now()
          WHERE id = $1 AND ($2::int IS NULL OR game_id = $2) AND revoked_at IS NULL
         RETURNING id",
    )
    .bind(id)
    .bind(game.map(|g| g.0))
    .fetch_optional(&mut *transaction)
    .await?;
    let row: Option<(i32, String, String, Option<String>, Micros, Option<Micros>, i32)> = sqlx::query_as(
        "SELECT id, kind, hint, label, created_at, revoked_at, game_id FROM api_keys
          WHERE id = $1 AND ($2::int IS NULL OR game_id = $2)",
    )
    .bind(id)
    .bind(game.map(|g| g.0))
    .fetch_optional(&mut *transaction)
    .await?;
    let Some((id, kind, hint, label, created_at, revoked_at, game_id)) = row else { return Ok(None) };
    let key = from_row((id, kind, hint, label, created_at, revoked_at));
    if revoked.is_none() {
        return Ok(Some(key));
    }
    let detail = serde_json::json!({ "hint": key.hint });
    let subject = id.to_string();
    let change = Change { actor, action: "key.revoke", game: Some(GameId(game_id)), subject: &subject, detail };
    record(transaction, &change).await?;
    super::directory::changed(transaction).await?;
    Ok(Some(key))
}
