//! Keeping dead letters: jobs, or single events of a job, that will not be retried by themselves.

use sqlx::PgConnection;
use uuid::Uuid;

use crate::domain::clock::Micros;
use crate::domain::ids::GameId;
use crate::store::StoreError;

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

/// Most bytes of an error's text in a plain letter.
const PLAIN_ERROR: usize = 500;

impl NewDeadLetter {
    /// The same without what a database may refuse: no body, and an error in plain ASCII. The payload's bytes stay, so
    /// nothing is lost.
    #[must_use]
    pub fn plain(self) -> Self {
        let plain = |c: char| if c.is_ascii_graphic() || c == ' ' { c } else { '?' };
        Self { body: None, error: self.error.chars().take(PLAIN_ERROR).map(plain).collect(), ..self }
    }

    /// Whether there is nothing more to leave out.
    pub fn is_plain(&self) -> bool {
        let plain = |b: u8| b.is_ascii_graphic() || b == b' ';
        self.body.is_none() && self.error.len() <= PLAIN_ERROR && self.error.bytes().all(plain)
    }
}

/// Keeps a dead letter; says whether it is new. Keeping it twice changes nothing; one that was replayed and died again
/// waits again.
pub async fn keep(connection: &mut PgConnection, letter: &NewDeadLetter) -> Result<bool, StoreError> {
    Ok(keep_all(connection, std::slice::from_ref(letter), None).await? > 0)
}

/// The bytes that are kept under the id of a job, if any are.
pub async fn payload_of(connection: &mut PgConnection, job_id: &str) -> Result<Option<Vec<u8>>, StoreError> {
    sqlx::query_scalar("SELECT payload FROM dead_letters WHERE job_id = $1")
        .bind(job_id)
        .fetch_optional(connection)
        .await
}

/// Keeps dead letters as they were at `seen_at` (Postgres's clock; absent: now); returns how many are new. One that was
/// replayed since then is left alone: it may be running.
///
/// Rows are locked in the order in which decisions lock them: `received_at`, id.
///
/// # Errors
/// [`StoreError`]; then none was kept.
pub async fn keep_all(
    connection: &mut PgConnection,
    letters: &[NewDeadLetter],
    seen_at: Option<Micros>,
) -> Result<u64, StoreError> {
    let mut letters: Vec<&NewDeadLetter> = letters.iter().collect();
    letters.sort_by_key(|letter| (letter.received_at, letter.id));
    fn column<'l, T>(letters: &[&'l NewDeadLetter], pick: impl Fn(&'l NewDeadLetter) -> T) -> Vec<T> {
        letters.iter().map(|letter| pick(letter)).collect()
    }
    let done = sqlx::query(
        "INSERT INTO dead_letters (id, job_id, queue, lane, kind, game_id, reason, error, attempts, crashes,
                                   payload, body, received_at)
         SELECT id, job_id, queue, lane, kind, game_id, reason, error, attempts, crashes, payload, body::json, received_at
           FROM unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::text[], $6::int[], $7::text[], $8::text[],
                       $9::int[], $10::int[], $11::bytea[], $12::text[], $13::timestamptz[])
             AS l (id, job_id, queue, lane, kind, game_id, reason, error, attempts, crashes, payload, body, received_at)
          ORDER BY received_at, id
         ON CONFLICT (job_id) DO UPDATE
            SET reason = excluded.reason, error = excluded.error, attempts = excluded.attempts,
                crashes = excluded.crashes, died_at = now(), state = 'waiting', decided_at = NULL
          WHERE dead_letters.state = 'replayed' AND ($14::timestamptz IS NULL OR dead_letters.decided_at < $14)",
    )
    .bind(column(&letters, |l| l.id))
    .bind(column(&letters, |l| l.job_id.as_str()))
    .bind(column(&letters, |l| l.queue.as_str()))
    .bind(column(&letters, |l| l.lane.as_str()))
    .bind(column(&letters, |l| l.kind.as_str()))
    .bind(column(&letters, |l| l.game_id.map(|game| game.0)))
    .bind(column(&letters, |l| l.reason.as_str()))
    .bind(column(&letters, |l| l.error.as_str()))
    .bind(column(&letters, |l| l.attempts))
    .bind(column(&letters, |l| l.crashes))
    .bind(column(&letters, |l| l.payload.as_slice()))
    .bind(column(&letters, |l| l.body.as_deref()))
    .bind(column(&letters, |l| l.received_at))
    .bind(seen_at)
    .execute(connection)
    .await?;
    Ok(done.rows_affected())
}

/// The jobs of `job_ids` that Postgres keeps and that are not on their way back into the queue: Redis may forget them.
pub async fn kept(connection: &mut PgConnection, job_ids: &[&str]) -> Result<Vec<String>, StoreError> {
    sqlx::query_scalar("SELECT job_id FROM dead_letters WHERE job_id = ANY($1) AND state <> 'replayed'")
        .bind(job_ids)
        .fetch_all(connection)
        .await
}

/// The time by Postgres's clock, from which decisions about letters are also dated.
pub async fn now(connection: &mut PgConnection) -> Result<Micros, StoreError> {
    sqlx::query_scalar("SELECT clock_timestamp()").fetch_one(connection).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plain_letter_keeps_its_bytes_and_loses_what_may_be_refused() {
        let letter = NewDeadLetter {
            id: Uuid::nil(),
            job_id: "1-a-h".to_owned(),
            queue: "q0".to_owned(),
            lane: "high".to_owned(),
            kind: "persist-events".to_owned(),
            game_id: None,
            reason: "data_refused".to_owned(),
            error: "no \"日本\"\0\n".to_owned(),
            attempts: 0,
            crashes: 0,
            payload: vec![0, 159, 146, 150],
            body: Some("{}".to_owned()),
            received_at: Micros(0),
        };
        assert!(!letter.is_plain());
        let plain = letter.clone().plain();
        assert_eq!((plain.error.as_str(), &plain.body, &plain.payload), ("no \"??\"??", &None, &letter.payload));
        assert!(plain.is_plain());
    }
}
