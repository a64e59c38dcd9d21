//! Into the queue: limits, idempotency, admission and push in one script call per request.
//!
//! Only an answer of Redis counts as done (invariant 1): on any error the batch may or may not be queued, the client
//! is told so, and sending it again unchanged is safe.

mod admission;
mod keys;
mod request;
mod script;

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

pub use admission::{Admission, Closed};
pub use request::{
    AddressCount, Counted, EnqueueError, EnqueueReply, EnqueueRequest, Enqueued, OverQuota, QuotaCount, QuotaSubject,
    Remember,
};

use keys::{Keys, LimitKeys};
use script::Parts;

use crate::lifecycle::Lifecycle;
use crate::redis_connection::{Connection, Timeouts, with_source};

/// The longest waits of a request. Beyond them the outcome is unknown: the client is told to send again.
const TIMEOUTS: Timeouts = Timeouts { response: Duration::from_millis(1_500), connect: Duration::from_millis(1_000) };
/// The queue's name; more of them would be shards.
const QUEUE: &str = "q0";

/// Puts batches into the queue. Clones share their connections.
#[derive(Debug, Clone)]
pub struct Enqueuer {
    queue: Connection,
    /// Where limits are counted when not in the enqueue call.
    limits: Option<Connection>,
    /// Whether an address and a game may live on different nodes there.
    limits_clustered: bool,
    keys: Arc<Keys>,
    script: Arc<redis::Script>,
    admission: Arc<Admission>,
    /// The latest `received_at` that Redis gave, in µs: a server that knows less is told before it stamps.
    latest_stamp: Arc<AtomicI64>,
}

impl Enqueuer {
    /// Connects, and starts to watch the queue until the process stops. `limits_url`: where limits are counted when
    /// not with the queue.
    ///
    /// # Errors
    /// A URL is unusable, or nobody answers.
    pub async fn connect(
        queue_url: &str,
        limits_url: Option<&str>,
        prefix: &str,
        max_jobs: u64,
        lifecycle: &Lifecycle,
    ) -> Result<Self, EnqueueError> {
        let limits_url = limits_url.unwrap_or(queue_url);
        let queue = open(queue_url).await?;
        let apart = limits_url != queue_url || queue.is_cluster();
        let limits = match (apart, limits_url == queue_url) {
            (false, _) => None,
            (true, true) => Some(queue.clone()),
            (true, false) => Some(open(limits_url).await?),
        };
        let keys = Keys::new(prefix, QUEUE, if apart { LimitKeys::Apart } else { LimitKeys::WithQueue });
        let admission = Arc::new(Admission::new(max_jobs));
        let watch = admission::watch(Arc::clone(&admission), queue.clone(), keys.queue[0].clone(), lifecycle.clone());
        // Requests in hand ask it until the very end, so a stop must not wait for it.
        lifecycle.to_the_end().spawn_essential("queue-admission", watch);
        Ok(Self {
            queue,
            limits_clustered: limits.as_ref().is_some_and(Connection::is_cluster),
            limits,
            keys: Arc::new(keys),
            script: Arc::new(redis::Script::new(script::SOURCE)),
            admission,
            latest_stamp: Arc::default(),
        })
    }

    /// Whether the queue takes more.
    pub fn admission(&self) -> &Admission {
        &self.admission
    }

    /// Counts, checks, remembers and pushes what `request` asks for, or nothing of it. With limits on a server of
    /// their own (or on a cluster) they are counted first, in calls of their own; a batch that is then refused has
    /// been counted.
    pub async fn enqueue(&self, request: &EnqueueRequest<'_>) -> Enqueued {
        let mut address = None;
        let reply = self.steps(request, &mut address).await;
        Enqueued { address, reply }
    }

    /// `address`: what is left of the address's limit, as soon as it was counted.
    async fn steps(
        &self,
        request: &EnqueueRequest<'_>,
        address: &mut Option<Counted>,
    ) -> Result<EnqueueReply, EnqueueError> {
        let Some(limits) = &self.limits else {
            let all = Parts { address: true, quotas: true, queue: true };
            return self.call(&self.queue, request, all, address).await;
        };
        let none = Parts { address: false, quotas: false, queue: false };
        let steps: &[Parts] = if self.limits_clustered {
            &[Parts { address: true, ..none }, Parts { quotas: true, ..none }]
        } else {
            &[Parts { address: true, quotas: true, ..none }]
        };
        let mut quotas_used = Vec::new();
        for parts in steps {
            if !(parts.address && request.address.is_some() || parts.quotas && !request.quotas.is_empty()) {
                continue;
            }
            match self.call(limits, request, *parts, address).await? {
                EnqueueReply::Done { quotas, .. } => quotas_used.extend(quotas),
                refused => return Ok(refused),
            }
        }
        if !request.touches_queue() {
            let received_at = crate::domain::clock::Micros::default();
            return Ok(EnqueueReply::Done { received_at, quotas: quotas_used });
        }
        match self.call(&self.queue, request, Parts { queue: true, ..none }, address).await? {
            EnqueueReply::Done { received_at, .. } => Ok(EnqueueReply::Done { received_at, quotas: quotas_used }),
            refused => Ok(refused),
        }
    }

    async fn call(
        &self,
        connection: &Connection,
        request: &EnqueueRequest<'_>,
        parts: Parts,
        address: &mut Option<Counted>,
    ) -> Result<EnqueueReply, EnqueueError> {
        let (max_jobs, latest) = (self.admission.max_jobs(), self.latest_stamp.load(Ordering::Relaxed));
        let command = script::command(self.script.get_hash(), &self.keys, request, parts, max_jobs, latest);
        let answered = match command.query_async(&mut connection.clone()).await {
            // A fresh or flushed server: it ran nothing, so this is safe to repeat.
            Err(error) if error.code() == Some("NOSCRIPT") => {
                with_source(&command, script::SOURCE).query_async(&mut connection.clone()).await
            }
            answered => answered,
        };
        let value = answered.map_err(|error| self.judge(&error))?;
        let (reply, counted) = script::reply(value, parts.address && request.address.is_some())
            .ok_or_else(|| EnqueueError::Refused("unexpected answer".to_owned()))?;
        *address = address.or(counted);
        match &reply {
            EnqueueReply::QueueFull(_) => self.admission.filled(),
            EnqueueReply::Done { received_at, .. } if parts.queue && request.has_jobs() => {
                self.latest_stamp.fetch_max(received_at.0, Ordering::Relaxed);
            }
            _ => {}
        }
        Ok(reply)
    }

    fn judge(&self, error: &redis::RedisError) -> EnqueueError {
        match error.code() {
            Some("OOM") => {
                self.admission.out_of_memory();
                EnqueueError::OutOfMemory
            }
            Some("LOADING" | "MASTERDOWN" | "READONLY" | "CLUSTERDOWN" | "MISCONF") | None => {
                self.admission.lost();
                unreachable(error)
            }
            Some(_) => EnqueueError::Refused(error.to_string()),
        }
    }
}

/// Opens a connection and makes sure that somebody answers. A URL that is none is not worth waiting for.
async fn open(url: &str) -> Result<Connection, EnqueueError> {
    let mut connection = Connection::open(url, TIMEOUTS).map_err(|error| EnqueueError::Refused(error.to_string()))?;
    redis::cmd("PING").query_async::<redis::Value>(&mut connection).await.map_err(unreachable)?;
    Ok(connection)
}

fn unreachable(error: impl std::fmt::Display) -> EnqueueError {
    EnqueueError::Unreachable(error.to_string())
}
