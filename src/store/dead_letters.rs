//! Jobs that will not be retried by themselves: looking at them and deciding about them.

use crate::store::{Pool, StoreError};
use sqlx::{FromRow as _, PgConnection, Row as _};
use uuid::Uuid;

use super::rows::from_row;

use crate::domain::clock::Micros;
use crate::domain::ids::GameId;
use crate::telemetry::redaction::redact;

/// A dead letter without its payload.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct DeadLetter {
    /// By which it is decided.
    pub id: Uuid,
    /// The job's id in the queue.
    pub job_id: String,
    /// Which queue.
    pub queue: String,
    /// `high` or `low`.
    pub lane: String,
    /// What the job does.
    pub kind: String,
    /// Whose it is; absent when the payload could not be read.
    pub game_id: Option<GameId>,
    /// Why it is here, in a word.
    pub reason: String,
    /// The last error.
    pub error: String,
    /// How often it was tried.
    pub attempts: i32,
    /// How often a worker died under it.
    pub crashes: i32,
    /// When ingest enqueued it, RFC 3339.
    pub received_at: Micros,
    /// When it was given up, RFC 3339.
    pub died_at: Micros,
    /// `waiting`, `replayed` or `discarded`.
    pub state: String,
    /// When that was decided, RFC 3339.
    pub decided_at: Option<Micros>,
}

/// Which dead letters. What is `None` does not restrict.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DeadLetterFilter<'a> {
    /// `waiting`, `replayed` or `discarded`.
    pub state: Option<&'a str>,
    /// Of one game.
    pub game: Option<GameId>,
    /// Of one kind of job.
    pub kind: Option<&'a str>,
    /// With one reason.
    pub reason: Option<&'a str>,
    /// After this one in the list (for the next page): its `received_at` and id.
    pub after: Option<(Micros, Uuid)>,
}

struct DeadLetterRow {
    id: Uuid,
    job_id: String,
    queue: String,
    lane: String,
    kind: String,
    game_id: Option<i32>,
    reason: String,
    error: String,
    attempts: i32,
    crashes: i32,
    received_at: Micros,
    died_at: Micros,
    state: String,
    decided_at: Option<Micros>,
}

from_row!(DeadLetterRow {
    id,
    job_id,
    queue,
    lane,
    kind,
    game_id,
    reason,
    error,
    attempts,
    crashes,
    received_at,
    died_at,
    state,
    decided_at,
});

impl From<DeadLetterRow> for DeadLetter {
    fn from(row: DeadLetterRow) -> Self {
        Self {
            id: row.id,
            job_id: row.job_id,
            queue: row.queue,
            lane: row.lane,
            kind: row.kind,
            game_id: row.game_id.map(GameId),
            reason: row.reason,
            error: without_internals(&row.error),
            attempts: row.attempts,
            crashes: row.crashes,
            received_at: row.received_at,
            died_at: row.died_at,
            state: row.state,
            decided_at: row.decided_at,
        }
    }
}

/// The error of a letter that an earlier version kept, without what only meant something beside Postgres's sources.
fn without_internals(error: &str) -> String {
    const OF_THE_DRIVER: &str = "error returned from database: ";
    redact(error).replacen(OF_THE_DRIVER, "the database says: ", 1)
}

/// Dead letters that pass a filter, the oldest first.
pub async fn list(pool: &Pool, filter: &DeadLetterFilter<'_>, limit: i64) -> Result<Vec<DeadLetter>, StoreError> {
    let rows: Vec<DeadLetterRow> = sqlx::query_as(
        "SELECT id, job_id, queue, lane, kind, game_id, reason, error, attempts, crashes, received_at, died_at,
                state, decided_at
           FROM dead_letters
          WHERE ($1::text IS NULL OR state = $1) AND ($2::int IS NULL OR game_id = $2)
            AND ($3::text IS NULL OR kind = $3) AND ($4::text IS NULL OR reason = $4)
            AND ($5::timestamptz IS NULL OR (received_at, id) > ($5, $6))
          ORDER BY received_at, id LIMIT $7",
    )
    .bind(filter.state)
    .bind(filter.game.map(|g| g.0))
    .bind(filter.kind)
    .bind(filter.reason)
    .bind(filter.after.map(|(at, _)| at))
    .bind(filter.after.map(|(_, id)| id))
    .bind(limit)
    .fetch_all(pool)
    .await?;
    Ok(rows.into_iter().map(Into::into).collect())
}

/// One dead letter and its body for people (JSON text; `None` when it could not be read); of `game` only, where one
/// is given.
pub async fn read(
    pool: &Pool,
    game: Option<GameId>,
    id: Uuid,
) -> Result<Option<(DeadLetter, Option<String>)>, StoreError> {
    let row = sqlx::query(
        "SELECT id, job_id, queue, lane, kind, game_id, reason, error, attempts, crashes, received_at, died_at,
                state, decided_at, body::text AS body
           FROM dead_letters WHERE id = $1 AND ($2::int IS NULL OR game_id = $2)",
    )
    .bind(id)
    .bind(game.map(|g| g.0))
    .fetch_optional(pool)
    .await?;
    row.map(|row| Ok((DeadLetterRow::from_row(&row)?.into(), row.try_get("body")?))).transpose()
}

/// What putting a dead letter back into the queue needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replayable {
    /// The dead letter.
    pub id: Uuid,
    /// The job's id; a replay that happens twice gives the queue the same job.
    pub job_id: String,
    /// `high` or `low`.
    pub lane: String,
    /// When it was received first.
    pub received_at: Micros,
    /// The job's bytes.
    pub payload: Vec<u8>,
}

from_row!(Replayable { id, job_id, lane, received_at, payload });

/// Locks those of `ids` that still wait (and are of `game`, where one is given) until the transaction ends.
pub async fn lock_waiting(
    transaction: &mut PgConnection,
    game: Option<GameId>,
    ids: &[Uuid],
) -> Result<Vec<Replayable>, StoreError> {
    sqlx::query_as(
        "SELECT id, job_id, lane, received_at, payload FROM dead_letters
          WHERE id = ANY($1) AND state = 'waiting' AND ($2::int IS NULL OR game_id = $2)
          ORDER BY received_at, id FOR UPDATE",
    )
    .bind(ids)
    .bind(game.map(|g| g.0))
    .fetch_all(transaction)
    .await
}

/// Marks dead letters that wait as `replayed` or `discarded`; returns those it marked.
pub async fn decide(
    transaction: &mut PgConnection,
    game: Option<GameId>,
    ids: &[Uuid],
    state: &str,
) -> Result<Vec<Uuid>, StoreError> {
    sqlx::query_scalar(
        "UPDATE dead_letters d SET state = $3, decided_at = clock_timestamp()
           FROM (SELECT id FROM dead_letters
                  WHERE id = ANY($1) AND state = 'waiting' AND ($2::int IS NULL OR game_id = $2)
                  ORDER BY received_at, id FOR UPDATE) AS waiting
          WHERE d.id = waiting.id
         RETURNING d.id",
    )
    .bind(ids)
    .bind(game.map(|g| g.0))
    .bind(state)
    .fetch_all(transaction)
    .await
}
