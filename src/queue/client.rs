//! The handle to one queue: every caller has one, and so has every other file of this room.

use std::collections::HashMap;
use std::sync::atomic::AtomicI64;
use std::sync::{Arc, Mutex};

use super::keys::{Keys, Lane};
use super::payload::Owner;
use super::scripts::PUSH;
use crate::redis_connection::{Connection, Timeouts};

/// Why the queue could not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum QueueError {
    /// Redis cannot be reached, or said no.
    #[error("the queue's Redis: {0}")]
    Redis(#[from] redis::RedisError),
    /// A prefix, queue name or unique name with characters that keys cannot hold.
    #[error("invalid queue or job name {0:?}: use 1 to 128 letters, digits, - _ . :")]
    BadName(String),
    /// The text is not a job id.
    #[error("invalid job id {0:?}")]
    BadId(String),
    /// Workers came and went at each look at what they have in hand.
    #[error("workers sign on faster than their jobs can be counted")]
    WorkersChange,
}

impl QueueError {
    /// Stable code for logs and answers.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Redis(_) => "queue_unreachable",
            Self::BadName(_) => "bad_name",
            Self::BadId(_) => "bad_job_id",
            Self::WorkersChange => "workers_change",
        }
    }
}

/// A handle to one queue. Cheap to clone; all clones share one connection.
#[derive(Debug, Clone)]
pub struct Queue {
    connection: Connection,
    keys: Keys,
    pub(super) known: Known,
}

/// What earlier looks at the low-water mark have found; shared by all handles to a queue.
#[derive(Debug, Clone, Default)]
pub(super) struct Known {
    /// Owners of jobs in trouble: a job never changes, and one game may have thousands of them.
    pub(super) owners: Arc<Mutex<HashMap<String, Option<Owner>>>>,
    /// The latest stamp: a queue server that took over from another is told of it.
    pub(super) stamp: Arc<AtomicI64>,
}

impl Queue {
    /// A handle to queue `name` under `prefix`; connects at first use.
    ///
    /// # Errors
    /// The URL is not a Redis URL, or keys cannot hold the name.
    pub fn open(url: &str, prefix: &str, name: &str, timeouts: Timeouts) -> Result<Self, QueueError> {
        check_name(prefix)?;
        check_name(name)?;
        let known = Known::default();
        Ok(Self { connection: Connection::open(url, timeouts)?, keys: Keys::new(prefix, name), known })
    }

    /// Like [`Queue::open`], and asks Redis for the queue: PING would be answered by any node of a cluster.
    ///
    /// # Errors
    /// As [`Queue::open`], or Redis cannot be reached.
    pub async fn connect(url: &str, prefix: &str, name: &str, timeouts: Timeouts) -> Result<Self, QueueError> {
        let queue = Self::open(url, prefix, name, timeouts)?;
        redis::cmd("HLEN").arg(queue.keys.jobs()).exec_async(&mut queue.connection.clone()).await?;
        Ok(queue)
    }

    /// The connection, for the other scripts of this slot.
    pub fn connection(&self) -> &Connection {
        &self.connection
    }

    /// The names of its keys and channels.
    pub fn keys(&self) -> &Keys {
        &self.keys
    }

    /// Queues an internal job unless one of the same name waits, runs or is an unmoved dead letter. Returns whether it
    /// was queued.
    ///
    /// # Errors
    /// A bad name; Redis cannot be reached or is full. Pushing again is safe.
    pub async fn push(&self, lane: Lane, unique_name: &str, bytes: &[u8]) -> Result<bool, QueueError> {
        check_name(unique_name)?;
        let keys = [self.keys.named(), self.keys.jobs(), self.keys.lane(lane), self.keys.counters()];
        let call = PUSH.keys(keys).arg(unique_name).arg(lane.suffix().to_string()).arg(bytes);
        let call = call.arg(self.keys.wake_channel());
        let (queued, _id): (bool, String) = call.run(&mut self.connection.clone()).await?;
        Ok(queued)
    }

    /// Tells aggregators that score facts were committed. Best effort: they also look by themselves.
    pub async fn announce_facts(&self) {
        if let Err(error) = self.publish(&self.keys.facts_channel()).await {
            tracing::debug!(%error, "could not announce facts");
        }
    }

    /// Holds the queue: workers finish what they have and take nothing new. Ingest goes on.
    ///
    /// # Errors
    /// Redis cannot be reached.
    pub async fn pause(&self) -> Result<(), QueueError> {
        let mut command = redis::cmd("SET");
        command.arg(self.keys.paused()).arg("1");
        Ok(command.exec_async(&mut self.connection.clone()).await?)
    }

    /// Lets workers go on.
    ///
    /// # Errors
    /// Redis cannot be reached.
    pub async fn resume(&self) -> Result<(), QueueError> {
        let mut connection = self.connection.clone();
        redis::cmd("DEL").arg(self.keys.paused()).exec_async(&mut connection).await?;
        Ok(self.publish(&self.keys.wake_channel()).await?)
    }

    /// Announces on `channel`. Any node of a cluster would do; that of the queue is there if the queue is.
    async fn publish(&self, channel: &str) -> redis::RedisResult<()> {
        let mut command = redis::cmd("PUBLISH");
        command.arg(channel).arg("1");
        self.connection.send_to_owner(&self.keys.jobs(), &command).await.map(drop)
    }
}

/// Names become parts of keys: nothing that could end a hash tag or look like a pattern.
fn check_name(name: &str) -> Result<(), QueueError> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b':');
    if name.is_empty() || name.len() > 128 || !name.bytes().all(allowed) {
        return Err(QueueError::BadName(name.to_owned()));
    }
    Ok(())
}
