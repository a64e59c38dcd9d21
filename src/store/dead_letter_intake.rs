//! Keeping dead letters: jobs, or single events of a job, that will not be retried by themselves.

use sqlx::PgConnection;
use uuid::Uuid;

use crate::domain::clock::Micros;
use crate::domain::ids::GameId;

/// A dead letter to be kept.
#[derive(Debug, Clone)]
pub struct NewDeadLetter {
    /// Its own id.
    pub id: Uuid,
    /// The job's id; a repeat of it is ignored, so keeping is idempotent.
    pub job_id: String,
    /// The queue it came from.
    pub queue: String,
    /// `high` or `low`.
    pub lane: String,
    /// The job's kind, or `unknown`.
    pub kind: String,
    /// Whose it is, where that could be read.
    pub game_id: Option<GameId>,
    /// Stable code: `undecodable`, `crashed`, `attempts_exhausted`, `data_refused`, `unknown_game`, …
    pub reason: String,
    /// What happened, for people.
    pub error: String,
    /// Attempts consumed.
    pub attempts: i32,
    /// Crashes charged.
    pub crashes: i32,
    /// The job's bytes.
    pub payload: Vec<u8>,
    /// The same as JSON text; `None` when undecodable.
    pub body: Option<String>,
    /// When ingest enqueued it.
    pub received_at: Micros,
}

/// Keeps a dead letter; says whether it is new. Keeping it twice changes nothing; one that was replayed and died again
/// waits again.
///
/// # Errors
/// Whatever Postgres says.
pub async fn keep(connection: &mut PgConnection, letter: &NewDeadLetter) -> Result<bool, sqlx::Error> {
    let done = sqlx::query(
        "INSERT INTO dead_letters (id, job_id, queue, lane, kind, game_id, reason, error, attempts, crashes,
                                   payload, body, received_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12::json, $13)
         ON CONFLICT (job_id) DO UPDATE
            SET reason = excluded.reason, error = excluded.error, attempts = excluded.attempts,
                crashes = excluded.crashes, died_at = now(), state = 'waiting', decided_at = NULL
          WHERE dead_letters.state = 'replayed'",
    )
    .bind(letter.id)
    .bind(&letter.job_id)
    .bind(&letter.queue)
    .bind(&letter.lane)
    .bind(&letter.kind)
    .bind(letter.game_id.map(|g| g.0))
    .bind(&letter.reason)
    .bind(&letter.error)
    .bind(letter.attempts)
    .bind(letter.crashes)
    .bind(&letter.payload)
    .bind(&letter.body)
    .bind(letter.received_at)
    .execute(connection)
    .await?;
    Ok(done.rows_affected() > 0)
}
