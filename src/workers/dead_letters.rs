//! Moves dead letters from Redis, where the queue puts them in the script that gives up a job, to Postgres, where
//! people look at them. A crash between the two steps repeats the first, which changes nothing.

use std::time::Duration;

use crate::store::pool::Pool;
use uuid::Uuid;

use crate::lifecycle::{Lifecycle, crash_point};
use crate::queue::payload::{decode_persist_events, describe, kind_of};
use crate::queue::{DeadJob, Queue};
use crate::store::dead_letter_intake::{self, NewDeadLetter};

/// How often to look: dead letters are rare, and nobody waits for one.
const EVERY: Duration = Duration::from_secs(2);
/// Most of one round.
const BATCH: usize = 100;
/// Namespace of the ids of dead letters: the same job gives the same id, however often it is moved.
const NAMESPACE: Uuid = Uuid::from_u128(0x6d0f_2a51_8c1e_4b0a_9a57_1f3c_0c6e_77d4);

/// Moves dead letters until the process stops.
pub async fn run(queue: Queue, pool: Pool, queue_name: String, lifecycle: Lifecycle) {
    loop {
        match move_some(&queue, &pool, &queue_name).await {
            Ok(0) => {}
            Ok(moved) => tracing::warn!(moved, "jobs became dead letters"),
            Err(error) => tracing::warn!(error, "dead letters could not be moved; repeating"),
        }
        tokio::select! {
            () = lifecycle.soft.cancelled() => return,
            () = tokio::time::sleep(EVERY) => {}
        }
    }
}

/// Moves one round of dead letters; returns how many.
async fn move_some(queue: &Queue, pool: &Pool, queue_name: &str) -> Result<usize, String> {
    let jobs = queue.take_dead(BATCH).await.map_err(|e| e.to_string())?;
    if jobs.is_empty() {
        return Ok(0);
    }
    let mut connection = pool.acquire().await.map_err(|e| e.to_string())?;
    for job in &jobs {
        let letter = letter(job, queue_name);
        dead_letter_intake::keep(&mut connection, &letter).await.map_err(|e| e.to_string())?;
    }
    crash_point("dead_letters::before_forget");
    let ids: Vec<&str> = jobs.iter().map(|j| j.job_id.as_str()).collect();
    queue.forget_dead(&ids).await.map_err(|e| e.to_string())
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
