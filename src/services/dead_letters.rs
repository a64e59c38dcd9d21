//! Deciding on dead letters: back into the queue, or given up for good.

use uuid::Uuid;

use super::queues::QueueChangeError;
use crate::domain::ids::GameId;
use crate::queue::{Lane, Queue, QueueError};
use crate::store::audit_log::{Actor, Change, record};
use crate::store::dead_letters::{decide, lock_waiting};
use crate::store::{Pool, StoreError};

/// Letters of one transaction. It is idle towards Postgres while Redis is asked letter by letter, and Postgres ends it
/// after five seconds of that.
const CHUNK: usize = 50;

/// Queues those of `ids` that wait (of `game` only, where one is given); returns them. Replaying again is safe: a job
/// that waits or runs is not queued twice, and one that ran twice changes nothing.
///
/// # Errors
/// [`QueueChangeError`]; of the letters that were under way then nothing is marked, earlier ones are replayed.
pub async fn replay(
    pool: &Pool,
    queue: &Queue,
    game: Option<GameId>,
    ids: &[Uuid],
    actor: Actor,
) -> Result<Vec<Uuid>, QueueChangeError> {
    let mut replayed = Vec::new();
    // One chunk even of nothing: that somebody asked is in the audit log.
    for chunk in ids.chunks(CHUNK).chain(ids.is_empty().then_some(ids)) {
        replayed.extend(replay_chunk(pool, queue, game, chunk, actor).await?);
    }
    Ok(replayed)
}

async fn replay_chunk(
    pool: &Pool,
    queue: &Queue,
    game: Option<GameId>,
    ids: &[Uuid],
    actor: Actor,
) -> Result<Vec<Uuid>, QueueChangeError> {
    let mut transaction = pool.begin().await?;
    let mut queued = Vec::new();
    for letter in lock_waiting(&mut transaction, game, ids).await? {
        let lane = if letter.lane == "high" { Lane::High } else { Lane::Low };
        match queue.replay(&letter.job_id, lane, &letter.payload, letter.received_at).await {
            Ok(_) => queued.push(letter.id),
            // Of a job that was split (one event of it): its id is none that the queue gave out.
            Err(QueueError::BadId(_)) => {
                let name = format!("replay:{}", letter.id);
                queue.push(lane, &name, &letter.payload).await?;
                queued.push(letter.id);
            }
            Err(error) => return Err(error.into()),
        }
    }
    // Marked only after the queue has them: a crash in between leaves them waiting, to be replayed again.
    let marked = decide(&mut transaction, game, &queued, "replayed").await?;
    let detail = serde_json::json!({ "ids": marked });
    let change = Change { actor, action: "dead_letter.replay", game, subject: "dead-letters", detail };
    record(&mut transaction, &change).await?;
    transaction.commit().await?;
    Ok(marked)
}

/// Gives up those of `ids` that wait (of `game` only, where one is given) for good; returns them.
///
/// # Errors
/// [`StoreError`]; nothing is decided.
pub async fn discard(pool: &Pool, game: Option<GameId>, ids: &[Uuid], actor: Actor) -> Result<Vec<Uuid>, StoreError> {
    let mut transaction = pool.begin().await?;
    let ids = decide(&mut transaction, game, ids, "discarded").await?;
    let detail = serde_json::json!({ "ids": ids });
    let change = Change { actor, action: "dead_letter.discard", game, subject: "dead-letters", detail };
    record(&mut transaction, &change).await?;
    transaction.commit().await?;
    Ok(ids)
}
