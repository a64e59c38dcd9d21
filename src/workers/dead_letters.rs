//! Moves dead letters from Redis, where the queue puts them in the script that gives up a job, to Postgres, where
//! people look at them. A crash between the two steps repeats the first, which changes nothing.

use std::collections::HashSet;
use std::time::Duration;

use uuid::Uuid;

use crate::domain::clock::Micros;
use crate::domain::retry::Backoff;
use crate::queue::payload::{decode_persist_events, describe, kind_of};
use crate::queue::{DeadJob, Queue};
use crate::runtime::crash_points::crash_point;
use crate::runtime::lifecycle::Lifecycle;
use crate::store::dead_letter_intake::{self, NewDeadLetter};
use crate::store::failure::{Failure, classify};
use crate::store::{Connection, Pool, StoreError};

/// How often to look: dead letters are rare, and nobody waits for one. A round that moved some is followed by
/// the next at once.
const EVERY: Duration = Duration::from_secs(2);
/// Longest pause while nothing but letters is left that Postgres refuses.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// Most of one round.
const BATCH: usize = 250;
/// Namespace of the ids of dead letters: the same job gives the same id, however often it is moved.
const NAMESPACE: Uuid = Uuid::from_u128(0x6d0f_2a51_8c1e_4b0a_9a57_1f3c_0c6e_77d4);

/// What one round did.
#[derive(Debug, Default)]
struct Round {
    moved: usize,
    /// Letters that Postgres refuses, and why it refuses one of them.
    refused: Option<(usize, String)>,
}

/// Moves dead letters until the process stops.
pub async fn run(queue: Queue, pool: Pool, queue_name: String, lifecycle: Lifecycle) {
    let mut stuck = Backoff::new(EVERY, LONGEST_PAUSE);
    while !lifecycle.soft.is_cancelled() {
        let pause = match move_some(&queue, &pool, &queue_name).await {
            Ok(Round { moved, refused }) => {
                if moved > 0 {
                    tracing::warn!(moved, "jobs became dead letters");
                }
                if let Some((letters, error)) = &refused {
                    tracing::error!(letters, error, "dead letters are refused; they stay in the queue");
                }
                if moved == 0 && refused.is_some() {
                    stuck.pause()
                } else {
                    stuck.reset();
                    if moved > 0 { Duration::ZERO } else { EVERY }
                }
            }
            Err(error) => {
                tracing::warn!(error, "dead letters could not be moved; repeating");
                EVERY
            }
        };
        if tokio::time::timeout(pause, lifecycle.soft.cancelled()).await.is_ok() {
            return;
        }
    }
}

/// Moves one round of dead letters.
async fn move_some(queue: &Queue, pool: &Pool, queue_name: &str) -> Result<Round, String> {
    if queue.take_dead(1).await.map_err(|e| e.to_string())?.is_empty() {
        return Ok(Round::default());
    }
    let mut connection = pool.acquire().await.map_err(|e| e.to_string())?;
    // Before they are looked at: one that is replayed after that has left Redis, and may be running.
    let seen_at = dead_letter_intake::now(&mut connection).await.map_err(|e| e.to_string())?;
    let jobs = queue.take_dead(BATCH).await.map_err(|e| e.to_string())?;
    let letters: Vec<NewDeadLetter> = jobs.iter().map(|job| letter(job, queue_name)).collect();
    let refused = keep(&mut connection, &letters, seen_at).await.map_err(|e| e.to_string())?;
    let ids: Vec<&str> = jobs.iter().map(|job| job.job_id.as_str()).collect();
    let kept = dead_letter_intake::kept(&mut connection, &ids).await.map_err(|e| e.to_string())?;
    drop(connection);
    crash_point("dead_letters::before_forget");
    let kept: HashSet<&str> = kept.iter().map(String::as_str).collect();
    let kept: Vec<&DeadJob> = jobs.iter().filter(|job| kept.contains(job.job_id.as_str())).collect();
    let moved = queue.forget_dead(&kept).await.map_err(|e| e.to_string())?;
    Ok(Round { moved, refused })
}

/// Keeps letters together; when Postgres refuses that, one by one, and then without what it may refuse of each. Returns
/// how many it refuses even so.
///
/// # Errors
/// Postgres is away.
async fn keep(
    connection: &mut Connection,
    letters: &[NewDeadLetter],
    seen_at: Micros,
) -> Result<Option<(usize, String)>, StoreError> {
    match dead_letter_intake::keep_all(connection, letters, Some(seen_at)).await {
        Ok(_) => return Ok(None),
        Err(error) if classify(&error) == Failure::Server => return Err(error),
        Err(_) => {}
    }
    let mut refused: Option<(usize, String)> = None;
    for letter in letters {
        let mut kept = dead_letter_intake::keep_all(connection, std::slice::from_ref(letter), Some(seen_at)).await;
        if kept.as_ref().is_err_and(|error| classify(error) != Failure::Server) {
            kept = dead_letter_intake::keep_all(connection, &[letter.clone().plain()], Some(seen_at)).await;
        }
        match kept {
            Ok(_) => {}
            Err(error) if classify(&error) == Failure::Server => return Err(error),
            Err(error) => refused.get_or_insert_with(|| (0, format!("{}: {error}", letter.job_id))).0 += 1,
        }
    }
    Ok(refused)
}

fn letter(job: &DeadJob, queue_name: &str) -> NewDeadLetter {
    NewDeadLetter {
        id: Uuid::new_v5(&NAMESPACE, job.job_id.as_bytes()),
        job_id: job.job_id.clone(),
        queue: queue_name.to_owned(),
        lane: job.lane.name().to_owned(),
        kind: kind_of(&job.bytes).map_or("unknown", |k| k.name()).to_owned(),
        game_id: decode_persist_events(&job.bytes).ok().map(|e| e.game_id),
        reason: job.reason.clone(),
        error: job.error.clone(),
        attempts: i32::try_from(job.attempts).unwrap_or(i32::MAX),
        crashes: i32::try_from(job.crashes).unwrap_or(i32::MAX),
        payload: job.bytes.clone(),
        body: describe(&job.bytes),
        received_at: job.received_at,
    }
}
