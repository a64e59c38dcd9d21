//! Dead letters on their way from Redis to Postgres, and back.

use super::client::{Queue, QueueError};
use super::job_id::parse_id;
use super::keys::Lane;
use super::scripts::{FORGET_DEAD, REPLAY, TAKE_DEAD};
use super::trouble::Trouble;
use crate::domain::clock::Micros;

/// Most dead letters of one call.
const MOST: usize = 250;
/// Most bytes of theirs, unless one has more: whoever stores them has them in memory several times.
const MOST_BYTES: usize = 8 << 20;
/// So many bytes are asked for at once, unless one job has more: the heartbeat comes on the same connection.
const SLICE_BYTES: usize = 512 << 10;

/// A dead letter as the queue knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadJob {
    /// The job's id.
    pub job_id: String,
    /// Its lane.
    pub lane: Lane,
    /// When ingest received it.
    pub received_at: Micros,
    /// The payload; empty when Redis lost it.
    pub bytes: Vec<u8>,
    /// Stable code of the cause, for example `crashed`, `attempts_exhausted`, `undecodable`.
    pub reason: String,
    /// What happened last.
    pub error: String,
    /// Attempts made.
    pub attempts: u32,
    /// Times its worker died while running it alone.
    pub crashes: u32,
    /// Tells this death from the job's next one, should it be replayed and die again.
    pub death: String,
}

impl Queue {
    /// Up to `most` (at most 250) dead letters that were not forgotten yet, in no order; fewer where they are large.
    /// Taking does not remove: store them, then [`Queue::forget_dead`]. Taking, storing and forgetting twice must
    /// change nothing.
    ///
    /// # Errors
    /// Redis cannot be reached.
    pub async fn take_dead(&self, most: usize) -> Result<Vec<DeadJob>, QueueError> {
        let mut connection = self.connection().clone();
        let name = uuid::Uuid::new_v4();
        let keys = [self.keys().dead(), self.keys().deaths(), self.keys().jobs()];
        let call = TAKE_DEAD.keys(keys).arg(most.min(MOST)).arg(name.simple().to_string());
        let mut letters: Vec<(String, String, String, usize)> = call.run(&mut connection).await?;
        // All of them come in one order: what is cut off must not be the same each time.
        let first = name.as_u128().checked_rem(letters.len() as u128).unwrap_or_default();
        letters.rotate_left(first as usize);
        letters.truncate(fitting(letters.iter().map(|(.., bytes)| *bytes), MOST_BYTES));
        let (mut letters, mut jobs) = (letters.as_slice(), Vec::with_capacity(letters.len()));
        while !letters.is_empty() {
            let (slice, rest) = letters.split_at(fitting(letters.iter().map(|(.., bytes)| *bytes), SLICE_BYTES));
            let mut command = redis::cmd("HMGET");
            command.arg(self.keys().jobs());
            for (id, ..) in slice {
                command.arg(id);
            }
            let bytes: Vec<Option<Vec<u8>>> = command.query_async(&mut connection).await?;
            let read = |((id, letter, death, _), bytes): (&(String, String, String, usize), _)| {
                read(id.clone(), letter, death.clone(), bytes)
            };
            jobs.extend(slice.iter().zip(bytes).map(read));
            letters = rest;
        }
        Ok(jobs)
    }

    /// Removes dead letters, as they were taken, that are stored elsewhere now. Those that were replayed meanwhile
    /// stay, also if they have died again: that letter is another one.
    ///
    /// # Errors
    /// Redis cannot be reached; forgetting again is harmless.
    pub async fn forget_dead(&self, letters: &[&DeadJob]) -> Result<usize, QueueError> {
        let keys = self.keys();
        let mut forgotten = 0;
        for chunk in letters.chunks(MOST) {
            let mut call = FORGET_DEAD.keys([
                keys.dead(),
                keys.jobs(),
                keys.trouble(),
                keys.troubled_at(),
                keys.named(),
                keys.shares(),
                keys.deaths(),
            ]);
            for letter in chunk {
                call.push(&letter.job_id);
                call.push(&letter.death);
            }
            forgotten += call.run::<usize>(&mut self.connection().clone()).await?;
        }
        Ok(forgotten)
    }

    /// Queues a dead letter again, with its old id and time of receipt and a fresh count of attempts. Returns `false`,
    /// and changes nothing, when that job already waits or runs.
    ///
    /// # Errors
    /// The id is not a job id, or Redis cannot be reached or is full. Replaying again is safe.
    pub async fn replay(
        &self,
        job_id: &str,
        lane: Lane,
        bytes: &[u8],
        received_at: Micros,
    ) -> Result<bool, QueueError> {
        if parse_id(job_id).is_none_or(|parts| parts.lane != lane || parts.received_at != received_at) {
            return Err(QueueError::BadId(job_id.to_owned()));
        }
        let keys = self.keys();
        let call = REPLAY
            .keys([
                keys.jobs(),
                keys.again(lane),
                keys.troubled_at(),
                keys.trouble(),
                keys.dead(),
                keys.shares(),
                keys.deaths(),
            ])
            .arg(job_id)
            .arg(bytes)
            .arg(received_at.0)
            .arg(keys.wake_channel());
        Ok(call.run(&mut self.connection().clone()).await?)
    }
}

/// How many of the first of these have at most `most` bytes together; one has, however large it is.
fn fitting(sizes: impl Iterator<Item = usize>, most: usize) -> usize {
    let together = sizes.scan(0, |sum: &mut usize, bytes| {
        *sum = sum.saturating_add(bytes);
        Some(*sum)
    });
    together.enumerate().take_while(|(n, sum)| *n == 0 || *sum <= most).count()
}

/// Reads `<reason> <attempts> <crashes> <error>`.
fn read(job_id: String, letter: &str, death: String, bytes: Option<Vec<u8>>) -> DeadJob {
    let (reason, trouble) = letter.split_once(' ').unwrap_or((letter, ""));
    let trouble = Trouble::decode(trouble);
    let parts = parse_id(&job_id);
    DeadJob {
        lane: parts.map_or(Lane::Low, |p| p.lane),
        received_at: parts.map_or(Micros::EPOCH, |p| p.received_at),
        bytes: bytes.unwrap_or_default(),
        reason: reason.to_owned(),
        error: trouble.error,
        attempts: trouble.attempts,
        crashes: trouble.crashes,
        death,
        job_id,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_are_taken_as_fit_and_one_always() {
        let fit = |sizes: &[usize]| fitting(sizes.iter().copied(), 10);
        assert_eq!([fit(&[]), fit(&[11, 1]), fit(&[4, 6, 1]), fit(&[10, 0, 1]), fit(&[0, 0, 20])], [0, 1, 2, 2, 2]);
    }
}
