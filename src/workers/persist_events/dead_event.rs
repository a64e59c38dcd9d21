//! The one event of a group that Postgres will not take: kept as a dead letter of its own, while the rest commits.

use uuid::Uuid;

use super::group::{Group, Rows};
use super::pieces::{PATIENCE, Piece};
use super::shared::{Shared, Stopped};
use super::transaction::Way;
use crate::queue::Delivery;
use crate::queue::payload::{Kind, PersistEventsEncoder, decode_persist_events, describe};
use crate::store::dead_letter_intake::{self, NewDeadLetter};
use crate::store::events::EventRow;
use crate::store::failure::{Failure, classify, in_words};
use crate::store::{Connection, StoreError};

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
    error: &StoreError,
) -> Result<Kept, Stopped> {
    let mut letter = letter(shared, group, rows, index, &in_words(error));
    let earlier = earlier_name(group.job(rows.origins[index]), group.batch_of(rows.origins[index]), &rows.rows[index]);
    let mut pause = Piece::new(vec![index], Way::Careful).pause;
    loop {
        let kept = match shared.pool.acquire().await {
            Ok(mut connection) => keep_once(&mut connection, &letter, &earlier).await,
            Err(error) => Err(error),
        };
        let refused = match kept {
            Ok(true) => {
                tracing::error!(job = letter.job_id, game = ?letter.game_id, %error, "event kept as a dead letter");
                return Ok(Kept::Kept);
            }
            Ok(false) => return Ok(Kept::Refused(format!("another letter has the name {}", letter.job_id))),
            Err(refused) => refused,
        };
        let failure = classify(&refused);
        if failure == Failure::Data && !letter.is_plain() {
            letter = letter.plain();
            continue;
        }
        let surely_the_server = failure == Failure::Server && pause.repeats() < PATIENCE;
        if !surely_the_server && shared.probe.server_is_well(&shared.pool, true).await {
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

/// Keeps a letter; says whether what is stored under its name afterwards is this event. That no row was written
/// does not say so.
///
/// An earlier version kept it under a name without its moment. That letter goes on being this event's, so that a
/// job that ran under both versions leaves one. Where both run at once there may be two: a replay of either stores
/// the event once.
async fn keep_once(connection: &mut Connection, letter: &NewDeadLetter, earlier: &str) -> Result<bool, StoreError> {
    let stored = dead_letter_intake::payload_of(connection, earlier).await?;
    let letter = match stored.filter(|stored| is_same_event(stored, &letter.payload)) {
        Some(_) => &NewDeadLetter { job_id: earlier.to_owned(), ..letter.clone() },
        None => letter,
    };
    dead_letter_intake::keep(connection, letter).await?;
    let stored = dead_letter_intake::payload_of(connection, &letter.job_id).await?;
    Ok(stored.is_some_and(|stored| is_same_event(&stored, &letter.payload)))
}

/// Whether two jobs carry the same one event, by its identity.
fn is_same_event(one: &[u8], other: &[u8]) -> bool {
    let identity = |bytes| {
        let job = decode_persist_events(bytes).ok()?;
        let [event] = job.events.as_slice() else { return None };
        Some((job.game_id, event.event_id, event.occurred_at))
    };
    one == other || identity(one).is_some_and(|one| identity(other) == Some(one))
}

fn letter(shared: &Shared, group: &Group<'_>, rows: &Rows<'_>, index: usize, error: &str) -> NewDeadLetter {
    let (row, origin) = (&rows.rows[index], rows.origins[index]);
    let job = group.job(origin);
    let mut encoder = PersistEventsEncoder::new(row.game_id, group.batch_of(origin), row.from_server, 0);
    encoder.push(&row.event);
    let payload = encoder.finish();
    NewDeadLetter {
        // The same event of the same job gives the same letter, however often the job runs.
        id: Uuid::new_v5(&row.event.event_id, format!("{} {}", job.id, row.event.occurred_at.0).as_bytes()),
        // A job id of its own, so that the event can be replayed.
        job_id: single_event_job(job, group.batch_of(origin), row),
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

/// The id of the job that carries this one event: `<received_at>-<batch>.<event>.<occurred_at, hexadecimal>-<lane>`.
/// All of its identity is in it: two events of a batch may differ in their moment alone.
fn single_event_job(job: &Delivery, batch: Uuid, row: &EventRow<'_>) -> String {
    let (event, moment) = (row.event.event_id.simple(), row.event.occurred_at.0);
    format!("{}-{}.{event}.{moment:x}-{}", job.received_at.0, batch.simple(), job.lane.suffix())
}

/// What earlier versions called it: two events that differ in their moment alone had one name.
fn earlier_name(job: &Delivery, batch: Uuid, row: &EventRow<'_>) -> String {
    format!("{}-{}.{}-{}", job.received_at.0, batch.simple(), row.event.event_id.simple(), job.lane.suffix())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::clock::Micros;
    use crate::domain::event::Event;
    use crate::domain::ids::GameId;

    #[test]
    fn an_event_is_the_same_by_its_identity_and_not_by_its_bytes() {
        let job = |game, batch, event, moment, payload| {
            let mut encoder = PersistEventsEncoder::new(GameId(game), Uuid::from_u128(batch), false, 0);
            encoder.push(&Event {
                event_id: Uuid::from_u128(event),
                event_type: "t",
                player_id: "p",
                session_id: None,
                schema_version: None,
                occurred_at: Micros(moment),
                payload,
            });
            encoder.finish()
        };
        let one = job(1, 1, 1, 5, "{");
        assert!(is_same_event(&one, &job(1, 2, 1, 5, "[")));
        for other in [job(2, 1, 1, 5, "{"), job(1, 1, 2, 5, "{"), job(1, 1, 1, 6, "{"), b"nonsense".to_vec()] {
            assert!(!is_same_event(&one, &other));
        }
    }
}
