//! The handle of ingest. A request goes to the queue's server, and first to that of the limits where it is another.

use std::sync::Arc;
use std::time::Duration;

use super::admission::{self, Admission};
use super::apart::ApartLimits;
use super::call::{Calls, no_answer_of_ours, unreachable};
use super::keys::{Keys, LimitKeys};
use super::request::{EnqueueError, EnqueueReply, EnqueueRequest, Enqueued, ReceiptName};
use super::script::{OfAddress, Parts};
use crate::domain::clock::Micros;
use crate::queue::keys::QUEUE_NAME;
use crate::redis_connection::{Connection, Timeouts};
use crate::runtime::lifecycle::Lifecycle;

/// The longest waits of a request. Beyond them the outcome is unknown: the client is told to send again.
const TIMEOUTS: Timeouts = Timeouts { response: Duration::from_millis(1_500), connect: Duration::from_millis(1_000) };

/// Puts batches into the queue. Clones share their connections.
#[derive(Debug, Clone)]
pub struct Enqueuer {
    queue: Connection,
    /// Where limits are counted when not in the enqueue call.
    limits: Option<Arc<ApartLimits>>,
    calls: Arc<Calls>,
}

impl Enqueuer {
    /// Connects, and starts to watch the queue until the process stops. `limits_url`: where limits are counted when
    /// not with the queue; that server may be away.
    ///
    /// # Errors
    /// A URL is unusable, or nobody answers for the queue.
    pub async fn connect(
        queue_url: &str,
        limits_url: Option<&str>,
        prefix: &str,
        max_jobs: u64,
        lifecycle: &Lifecycle,
    ) -> Result<Self, EnqueueError> {
        let limits_url = limits_url.unwrap_or(queue_url);
        let queue = open(queue_url)?;
        let apart = limits_url != queue_url || queue.is_cluster();
        // A connection of its own even to the same cluster: a node that is silent there does not hold up the queue's.
        let limits = if apart { Some(Arc::new(ApartLimits::new(open(limits_url)?))) } else { None };
        let keys = Keys::new(prefix, QUEUE_NAME, if apart { LimitKeys::Apart } else { LimitKeys::WithQueue });
        // Of the queue itself: PING would be answered by any node of a cluster while the queue's own is away.
        redis::cmd("HLEN").arg(&keys.queue[0]).exec_async(&mut queue.clone()).await.map_err(unreachable)?;
        let admission = Arc::new(Admission::new(max_jobs));
        let watch = admission::watch(Arc::clone(&admission), queue.clone(), keys.clone(), lifecycle.clone());
        // Requests in hand ask it until the very end, so a stop must not wait for it.
        lifecycle.to_the_end().spawn_essential("queue-admission", watch);
        Ok(Self { queue, limits, calls: Arc::new(Calls::new(keys, admission)) })
    }

    /// Whether the queue takes more.
    pub fn admission(&self) -> &Admission {
        &self.calls.admission
    }

    /// Whether limits are counted on a server of their own that is not to be asked for now.
    pub fn limits_are_away(&self) -> bool {
        self.limits.as_ref().is_some_and(|limits| limits.is_away())
    }

    /// The receipt that stands under `name`, for a batch that is not to be queued. It may be asked for while nothing
    /// can be written.
    ///
    /// # Errors
    /// [`EnqueueError`].
    pub async fn receipt(&self, name: &ReceiptName<'_>) -> Result<Option<Vec<u8>>, EnqueueError> {
        let mut command = redis::cmd("GET");
        command.arg(self.calls.keys.receipt(name));
        command.query_async(&mut self.queue.clone()).await.map_err(|error| self.calls.judge(&error))
    }

    /// Finds a receipt; or counts, checks, keeps and pushes what `request` asks for, or nothing of it. With limits on a
    /// server of their own (or on a cluster) the receipt is looked for and they are counted first, in calls of their
    /// own; a batch that is then refused has been counted.
    pub async fn enqueue(&self, request: &EnqueueRequest<'_>) -> Enqueued {
        let mut address = OfAddress::default();
        let reply = self.steps(request, &mut address).await;
        Enqueued { address: address.counted, blocked_ms: address.blocked_ms, reply }
    }

    /// `address`: what is left of the address's limit, as soon as it was counted.
    async fn steps(&self, request: &EnqueueRequest<'_>, address: &mut OfAddress) -> Result<EnqueueReply, EnqueueError> {
        let Some(limits) = &self.limits else {
            let all = Parts { address: true, quotas: true, queue: true };
            return self.ask_queue(request, all, address).await;
        };
        if let Some(remember) = &request.remember
            && let Some(receipt) = self.receipt(&remember.name).await?
            && receipt != remember.known
        {
            // A repeat counts against its address like any request, but is told its receipt whatever comes of that.
            if let Ok(EnqueueReply::Blocked(for_ms)) = limits.count_address(&self.calls, request, address).await {
                address.blocked_ms = Some(for_ms);
            }
            return Ok(EnqueueReply::Remembered(receipt));
        }
        let used = match limits.count(&self.calls, request, address).await? {
            EnqueueReply::Done { quotas, .. } => quotas,
            refused => return Ok(refused),
        };
        if !request.touches_queue() {
            return Ok(EnqueueReply::Done { received_at: Micros::default(), quotas: used });
        }
        let queue = Parts { address: false, quotas: false, queue: true };
        match self.ask_queue(request, queue, address).await? {
            EnqueueReply::Done { received_at, .. } => Ok(EnqueueReply::Done { received_at, quotas: used }),
            refused => Ok(refused),
        }
    }

    /// Asks the queue's server, and tells admission what that shows of it.
    async fn ask_queue(
        &self,
        request: &EnqueueRequest<'_>,
        parts: Parts,
        address: &mut OfAddress,
    ) -> Result<EnqueueReply, EnqueueError> {
        let asked = self.calls.run(&self.queue, request, parts, address).await;
        let reply = asked.map_err(|error| self.calls.judge(&error))?.ok_or_else(no_answer_of_ours)?;
        match &reply {
            EnqueueReply::QueueFull(_) => self.calls.admission.filled(),
            EnqueueReply::Done { received_at, .. } if request.has_jobs() => self.calls.stamped(*received_at),
            _ => {}
        }
        Ok(reply)
    }
}

/// Opens a connection. It does not wait where the URL is not a Redis URL.
fn open(url: &str) -> Result<Connection, EnqueueError> {
    Connection::open(url, TIMEOUTS).map_err(|error| EnqueueError::Refused(error.to_string()))
}
