//! The one event of a group that Postgres will not take: kept as a dead letter of its own, while the rest commits.

use uuid::Uuid;

use super::group::{Group, Rows};
use super::narrowing::PATIENCE;
use super::pieces::Piece;
use super::transaction::Way;
use super::writer::{Shared, Stopped};
use crate::queue::Delivery;
use crate::queue::payload::{Kind, PersistEventsEncoder, describe};
use crate::store::dead_letter_intake::{self, NewDeadLetter};
use crate::store::failure::{Failure, classify, in_words};

/// What became of the letter.
pub enum Kept {
    /// It is stored.
    Kept,
    /// It can be stored neither as it is nor without its text, while the server is well; why, as it is shown.
    Refused(String),
}

/// Keeps row `index` as a dead letter, waiting for Postgres as long as it takes. What Postgres refuses of the letter is
/// left out: the payload's bytes are always taken.
///
/// # Errors
/// The process is stopping; the letter was not kept.
pub async fn keep(
    shared: &Shared,
    group: &Group<'_>,
    rows: &Rows<'_>,
    index: usize,
    error: &sqlx::Error,
) -> Result<Kept, Stopped> {
    let mut letter = letter(shared, group, rows, index, &in_words(error));
    let mut pause = Piece::new(vec![index], Way::Careful).pause;
    loop {
        let kept = match shared.pool.acquire().await {
            Ok(mut connection) => dead_letter_intake::keep(&mut connection, &letter).await,
            Err(error) => Err(error),
        };
        let Err(refused) = kept else {
            tracing::error!(job = letter.job_id, game = ?letter.game_id, %error, "event kept as a dead letter");
            return Ok(Kept::Kept);
        };
        let failure = classify(&refused);
        if failure == Failure::Data && !letter.is_plain() {
            letter = letter.plain();
            continue;
        }
        let surely_the_server = failure == Failure::Server && pause.repeats() < PATIENCE;
        if !surely_the_server && shared.probe.server_is_well(&shared.pool, letter.received_at, true).await {
            shared.health.working();
            tracing::warn!(error = %refused, "a dead letter is refused");
            return Ok(Kept::Refused(in_words(&refused)));
        }
        tracing::warn!(error = %refused, "a dead letter could not be kept; repeating");
        shared.health.failing(&refused.to_string(), tokio::time::Instant::now());
        tokio::select! {
            () = shared.hard.cancelled() => return Err(Stopped),
            () = tokio::time::sleep(pause.pause()) => {}
        }
    }
}

fn letter(shared: &Shared, group: &Group<'_>, rows: &Rows<'_>, index: usize, error: &str) -> NewDeadLetter {
    let (row, origin) = (&rows.rows[index], rows.origins[index]);
    let job = group.job(origin);
    let mut encoder = PersistEventsEncoder::new(row.game_id, group.batch_of(origin), row.from_server, 0);
    encoder.push(&row.event);
    let payload = encoder.finish();
    NewDeadLetter {
        // The same event of the same job gives the same letter, however often the job runs.
        id: Uuid::new_v5(&row.event.event_id, job.id.as_str().as_bytes()),
        // A job id of its own, so that the event can be replayed.
        job_id: single_event_job(job, group.batch_of(origin), row.event.event_id),
        queue: shared.queue.clone(),
        lane: job.lane.name().to_owned(),
        kind: Kind::PersistEvents.name().to_owned(),
        game_id: Some(row.game_id),
        reason: "data_refused".to_owned(),
        error: error.to_owned(),
        attempts: i32::try_from(job.attempts).unwrap_or(i32::MAX),
        crashes: i32::try_from(job.crashes).unwrap_or(i32::MAX),
        body: describe(&payload),
        payload,
        received_at: job.received_at,
    }
}

/// The id of the job that carries this one event: `<received_at>-<batch>.<event>-<lane>`.
fn single_event_job(job: &Delivery, batch: Uuid, event: Uuid) -> String {
    format!("{}-{}.{}-{}", job.received_at.0, batch.simple(), event.simple(), job.lane.suffix())
}
