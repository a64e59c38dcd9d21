//! Who changed what: one row per change, written in the transaction of that change. What is changed elsewhere (in
//! Redis) is written as begun before and with its outcome after, so that there is a trace whatever fails in between.

use crate::store::{Pool, StoreError};
use sqlx::PgConnection;

use crate::domain::clock::Micros;
use crate::domain::ids::GameId;

/// Who changes something, for the audit log: an api key by its number, the admin token, or the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Actor {
    /// The server key with this number.
    ServerKey(i32),
    /// The holder of the admin token.
    AdminToken,
    /// Whoever may run `scoreline` against the database.
    CommandLine,
}

impl std::fmt::Display for Actor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::ServerKey(id) => write!(f, "key:{id}"),
            Self::AdminToken => f.write_str("admin"),
            Self::CommandLine => f.write_str("cli"),
        }
    }
}

/// One change.
#[derive(Debug, Clone)]
pub struct Change<'a> {
    /// Who.
    pub actor: Actor,
    /// What, for example `leaderboard.edit`.
    pub action: &'static str,
    /// Whose, where it belongs to one game.
    pub game: Option<GameId>,
    /// On what: a slug, a number, a queue's name.
    pub subject: &'a str,
    /// Anything that helps to understand it later. Never a secret.
    pub detail: serde_json::Value,
}

/// Records a change, in its transaction.
pub async fn record(transaction: &mut PgConnection, change: &Change<'_>) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO audit_log (actor, action, game_id, subject, detail) VALUES ($1, $2, $3, $4, $5::text::jsonb)",
    )
    .bind(change.actor.to_string())
    .bind(change.action)
    .bind(change.game.map(|g| g.0))
    .bind(change.subject)
    .bind(change.detail.to_string())
    .execute(transaction)
    .await
    .map(drop)
}

/// A change outside of Postgres that is recorded as begun.
#[derive(Debug)]
#[must_use = "tell how it ended"]
pub struct Begun {
    id: i64,
}

/// Records that a change outside of Postgres begins, before it is made: its `detail` gets `"outcome": "begun"`, and
/// keeps it should nobody come to tell more. `detail` must be an object.
///
/// # Errors
/// [`StoreError`]; the change must not be made then.
pub async fn begin(pool: &Pool, change: &Change<'_>) -> Result<Begun, StoreError> {
    let id = sqlx::query_scalar(
        "INSERT INTO audit_log (actor, action, game_id, subject, detail)
         VALUES ($1, $2, $3, $4, $5::text::jsonb || '{\"outcome\": \"begun\"}') RETURNING id",
    )
    .bind(change.actor.to_string())
    .bind(change.action)
    .bind(change.game.map(|g| g.0))
    .bind(change.subject)
    .bind(change.detail.to_string())
    .fetch_one(pool)
    .await?;
    Ok(Begun { id })
}

impl Begun {
    /// Records how it ended: `done`, or `failed`. Should that not be possible, the row goes on saying
    /// that it was begun.
    pub async fn ended<T, E>(self, pool: &Pool, result: &Result<T, E>) {
        let outcome = if result.is_ok() { "done" } else { "failed" };
        let told = sqlx::query(
            "UPDATE audit_log SET detail = detail || jsonb_build_object('outcome', $2::text) WHERE id = $1",
        )
        .bind(self.id)
        .bind(outcome)
        .execute(pool)
        .await;
        if let Err(error) = told {
            tracing::warn!(%error, id = self.id, outcome, "cannot write to the audit log how a change ended");
        }
    }
}

/// A recorded change.
#[derive(Debug, Clone, serde::Serialize)]
pub struct RecordedChange {
    /// Grows with time.
    pub id: i64,
    /// When, RFC 3339.
    pub at: Micros,
    /// Who: `admin`, `cli` or `key:<number>`.
    pub actor: String,
    /// What.
    pub action: String,
    /// On what.
    pub subject: String,
    /// More about it.
    pub detail: serde_json::Value,
}

/// The latest changes before `before` (an id), newest first; of one game, or all.
pub async fn latest(
    pool: &Pool,
    game: Option<GameId>,
    before: Option<i64>,
    limit: i64,
) -> Result<Vec<RecordedChange>, StoreError> {
    let rows: Vec<(i64, Micros, String, String, String, String)> = sqlx::query_as(
        "SELECT id, at, actor, action, subject, detail::text FROM audit_log
          WHERE ($1::int IS NULL OR game_id = $1) AND ($2::bigint IS NULL OR id < $2)
          ORDER BY id DESC LIMIT $3",
    )
    .bind(game.map(|g| g.0))
    .bind(before)
    .bind(limit)
    .fetch_all(pool)
    .await?;
    Ok(rows
        .into_iter()
        .map(|(id, at, actor, action, subject, detail)| RecordedChange {
            id,
            at,
            actor,
            action,
            subject,
            detail: serde_json::from_str(&detail).unwrap_or_default(),
        })
        .collect())
}
