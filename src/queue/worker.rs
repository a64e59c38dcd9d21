//! A worker: apalis underneath, with a lease of its own and a clean end.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use apalis_core::monitor::Monitor;
use apalis_core::worker::builder::WorkerBuilder;
use futures_util::FutureExt;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::Queue;
use super::backend::QueueBackend;
use super::hands::Hands;
use super::job::{Delivery, Settlement};
use super::lease;
use super::meters::Meters;
use super::pacing::Pacing;
use super::payload::Kind;
use super::wake::{Wake, listen};
use crate::domain::retry::RetryPolicy;
use crate::lifecycle::Lifecycle;

/// Most jobs that a worker may have in hand.
pub const MOST_JOBS: usize = 1_000;

/// Runs one job and sees it through to its settlement ([`Delivery::settler`]). Many run at once. It runs in a task of
/// its own, which nothing cancels but the end of the process. A job whose runner returns or panics without
/// settling it is settled as [`Settlement::Retry`].
pub trait JobRunner: Clone + Send + Sync + 'static {
    /// Runs `job`.
    fn run(&self, job: Delivery) -> impl Future<Output = ()> + Send;
}

/// How a worker works. The defaults are those of `docs/configuration.md`.
#[derive(Debug, Clone)]
pub struct WorkerOptions {
    /// Most jobs in hand (at most 1,000).
    pub max_in_hand: usize,
    /// Most jobs of one fetch (at most 250).
    pub max_per_fetch: usize,
    /// A worker whose heartbeat was seen unchanged for this long is dead. Ten beats or more.
    pub lease: Duration,
    /// How long running jobs may take to finish at a stop.
    pub grace: Duration,
    /// Fetches of a busy worker start this far apart, so that each brings several jobs.
    pub spacing: Duration,
    /// An idle worker looks at the queue this often, should no announcement reach it.
    pub poll: Duration,
    /// The same while it hears no announcements.
    pub poll_unsubscribed: Duration,
    /// Deaths of a worker that ran a job alone which make that job a dead letter.
    pub max_crashes: u32,
    /// When a failed job of each kind is tried again.
    pub retry: fn(Kind) -> RetryPolicy,
    /// Told with each heartbeat.
    pub oldest_in_hand: Arc<OldestInHand>,
}

/// How long the oldest job has been in a worker's hands.
#[derive(Debug, Default)]
pub struct OldestInHand(Mutex<Option<Instant>>);

impl OldestInHand {
    /// `None`: the hands are empty.
    pub fn age(&self) -> Option<Duration> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).map(|since| since.elapsed())
    }

    pub(super) fn set(&self, since: Option<Instant>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = since;
    }
}

impl Default for WorkerOptions {
    fn default() -> Self {
        Self {
            max_in_hand: MOST_JOBS,
            max_per_fetch: 250,
            lease: Duration::from_secs(6),
            grace: Duration::from_secs(20),
            spacing: Duration::from_millis(20),
            poll: Duration::from_secs(2),
            poll_unsubscribed: Duration::from_millis(50),
            max_crashes: 3,
            retry: Kind::retry_policy,
            oldest_in_hand: Arc::default(),
        }
    }
}

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
    /// Broken connections as of the last fetch ([`Connection::breaks`](super::Connection::breaks)).
    pub(super) breaks: AtomicU64,
    pacing: Mutex<Pacing>,
    /// `2 × tenure`, plus 1 while registered.
    membership: AtomicU64,
}

impl WorkerState {
    fn new(queue: Queue, mut options: WorkerOptions) -> Self {
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

/// Runs jobs until `lifecycle.soft` is cancelled; then takes no more, waits for those in hand (at most the grace, or
/// until `lifecycle.hard`), gives the rest back and signs off.
pub async fn run_worker<R: JobRunner>(queue: Queue, options: WorkerOptions, runner: R, lifecycle: Lifecycle) {
    let state = Arc::new(WorkerState::new(queue, options));
    let stop = CancellationToken::new();
    lifecycle.spawn_essential("queue-lease", lease::keep(Arc::clone(&state), stop.clone()));
    lifecycle.spawn_essential("queue-wake", listen(state.queue.clone(), Arc::clone(&state.wake), stop.clone()));

    let monitor = monitor(&state, runner, lifecycle.soft.clone());
    let soft = lifecycle.soft.clone();
    let working = monitor.run_with_signal(async move {
        soft.cancelled().await;
        Ok(())
    });
    let ending = async {
        lifecycle.soft.cancelled().await;
        tokio::select! {
            () = lifecycle.hard.cancelled() => {}
            () = sleep(state.options.grace) => tracing::warn!("the grace is over; giving unfinished jobs back"),
        }
    };
    let finishing = async {
        if let Err(error) = working.await {
            tracing::error!(%error, "the job worker ended");
        }
        // Runs that apalis does not wait for: those of a worker that it restarted.
        state.runs.close();
        state.runs.wait().await;
    };
    tokio::select! {
        () = finishing => {}
        () = ending => {}
    }
    state.signed_off.cancel();
    lease::sign_off(&state).await;
    stop.cancel();
}

fn monitor<R: JobRunner>(state: &Arc<WorkerState>, runner: R, soft: CancellationToken) -> Monitor {
    let for_workers = Arc::clone(state);
    Monitor::new()
        // Our backend never fails; should apalis itself, the worker begins anew with the same hands.
        .should_restart(move |_, error| {
            tracing::error!(%error, "the job worker failed");
            !soft.is_cancelled()
        })
        .register(move |restarts| {
            let (state, runner) = (Arc::clone(&for_workers), runner.clone());
            WorkerBuilder::new(format!("{}-{restarts}", state.base))
                .backend(QueueBackend::new(Arc::clone(&state)))
                .build(move |job: Delivery| {
                    let run = state.runs.spawn(see_through(runner.clone(), job));
                    async move {
                        // A panic of the runner is settled inside.
                        let _ = run.await;
                    }
                })
        })
}

/// Runs a job; settles it should the runner not have.
async fn see_through<R: JobRunner>(runner: R, job: Delivery) {
    let (id, settler) = (job.id.clone(), job.settler.clone());
    let outcome = std::panic::AssertUnwindSafe(async { runner.run(job).await }).catch_unwind().await;
    if settler.holds(&id) {
        // What a panic says is of the program's inside: it is for the log.
        let (error, panic) = match &outcome {
            Ok(()) => ("the worker ended its run without a result", None),
            Err(panic) => {
                ("a fault of the worker itself ended its run; the worker's log says more", Some(panic_text(&**panic)))
            }
        };
        tracing::error!(job = %id, error, panic, "job was not settled by its runner");
        settler.settle(vec![(id, Settlement::Retry { error: error.to_owned() })], false).await;
    }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("(no message)")
}

/// `<host>-<pid>-<unique>`: readable, and new for every worker, so that a restarted one is never confused with the one
/// before it. Redis keys and logs take it as it is, so other characters than letters, digits and `-` are replaced.
fn worker_name() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_else(|_| "host".to_owned());
    let host: String = host.trim().chars().take(40).map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
    format!("{host}-{}-{}", std::process::id(), uuid::Uuid::new_v4().simple())
}

/// Waits for `answer`, at most `limit`; used where nothing more can be done about a Redis that does not answer.
pub(super) async fn within<T>(limit: Duration, answer: impl Future<Output = redis::RedisResult<T>>) -> Option<T> {
    let started = Instant::now();
    match timeout(limit, answer).await {
        Ok(Ok(answer)) => Some(answer),
        Ok(Err(error)) => {
            tracing::warn!(%error, elapsed = ?started.elapsed(), "Redis did not answer");
            None
        }
        Err(_) => {
            tracing::warn!(?limit, "Redis did not answer in time");
            None
        }
    }
}
