//! What the parts of one worker share: its handle, its hands, and whether Redis knows it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::client::Queue;
use super::hands::Hands;
use super::meters::Meters;
use super::pacing::Pacing;
use super::wake::Wake;
use super::worker_options::{MOST_JOBS, WorkerOptions};

/// What the parts of one worker share.
pub struct WorkerState {
    pub(super) queue: Queue,
    pub(super) options: WorkerOptions,
    /// Host, process and a unique part; never used twice.
    pub(super) base: String,
    pub(super) hands: Hands,
    pub(super) wake: Arc<Wake>,
    pub(super) runs: TaskTracker,
    pub(super) signed_off: CancellationToken,
    pub(super) meters: Meters,
    /// The number of the last fetch. Redis refuses one that is not greater than the last that it served.
    pub(super) fetch_number: AtomicU64,
    /// Whether Redis may list jobs as held by this worker that it does not know of: before the next fetch it asks.
    pub(super) unsure: AtomicBool,
    /// Broken connections as of the last fetch ([`Connection::breaks`](crate::redis_connection::Connection::breaks)).
    pub(super) breaks: AtomicU64,
    pacing: Mutex<Pacing>,
    /// `2 × tenure`, plus 1 while registered.
    membership: AtomicU64,
}

impl WorkerState {
    pub(super) fn new(queue: Queue, mut options: WorkerOptions) -> Self {
        options.max_in_hand = options.max_in_hand.clamp(1, MOST_JOBS);
        options.max_per_fetch = options.max_per_fetch.clamp(1, 250);
        let pacing = Mutex::new(Pacing::new(options.max_in_hand, options.max_per_fetch, options.spacing));
        Self {
            queue,
            base: worker_name(),
            hands: Hands::default(),
            wake: Arc::default(),
            runs: TaskTracker::new(),
            signed_off: CancellationToken::new(),
            meters: Meters::new(),
            fetch_number: AtomicU64::new(0),
            unsure: AtomicBool::new(false),
            breaks: AtomicU64::new(0),
            pacing,
            membership: AtomicU64::new(0),
            options,
        }
    }

    pub(super) fn pacing(&self) -> MutexGuard<'_, Pacing> {
        self.pacing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The worker's name in Redis during a tenure.
    pub(super) fn name(&self, tenure: u32) -> String {
        if tenure == 0 { self.base.clone() } else { format!("{}.{tenure}", self.base) }
    }

    pub(super) fn tenure(&self) -> u32 {
        (self.membership.load(Ordering::Acquire) / 2) as u32
    }

    /// The current tenure, while Redis knows the worker.
    pub(super) fn registered(&self) -> Option<u32> {
        let membership = self.membership.load(Ordering::Acquire);
        (membership % 2 == 1).then_some((membership / 2) as u32)
    }

    /// Redis knows the worker under `tenure` now.
    pub(super) fn signed_on(&self, tenure: u32) {
        self.membership.store(u64::from(tenure) * 2 + 1, Ordering::Release);
        self.wake.announce();
    }

    /// Redis does not know the worker any more: it was given up for dead, or Redis lost its data. The next tenure has
    /// another name, so that what it still has in hand cannot be confused with what it gets from now on.
    pub(super) fn given_up(&self, tenure: u32) {
        let (was, next) = (u64::from(tenure) * 2 + 1, (u64::from(tenure) + 1) * 2);
        if self.membership.compare_exchange(was, next, Ordering::AcqRel, Ordering::Acquire).is_ok() {
            let worker = self.name(tenure);
            tracing::warn!(worker, "the queue does not know this worker any more; signing on anew");
        }
    }
}

/// `<host>-<pid>-<unique>`: readable, and new for every worker, so that a restarted one is never confused with the one
/// before it. Redis keys and logs take it as it is, so other characters than letters, digits and `-` are replaced.
fn worker_name() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_else(|_| "host".to_owned());
    let host: String = host.trim().chars().take(40).map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
    format!("{host}-{}-{}", std::process::id(), uuid::Uuid::new_v4().simple())
}
