//! The apalis backend: hands out jobs and does nothing else.
//!
//! What apalis-core 1.0's `Persisted` does with a [`Persistence`] decides the shape
//! (docs/rules.md#apalis-only-hands-out-jobs). Any `Err` ends the worker with every handler in flight, so no method
//! fails. While a fetch is pending or a worker drains, neither heartbeats nor acknowledgements run, so the lease and
//! settlement live elsewhere. After an empty fetch nobody polls again by itself, so this backend keeps the waker and
//! its own timer.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use apalis_core::backend::finalize::Ephemeral;
use apalis_core::backend::persistence::{Persisted, Persistence, State, TaskEvent};
use apalis_core::backend::{Backend, BackendConfig};
use apalis_core::task::Task;
use apalis_core::worker::context::WorkerContext;
use tokio::time::{Instant, Sleep};
use tower::layer::util::Identity;

use super::delivery::Delivery;
use super::fetch::Fetcher;
use super::pacing::Step;
use super::worker_state::WorkerState;

/// apalis's own heartbeat does nothing here.
const HEARTBEAT: Duration = Duration::from_secs(3_600);

/// Implements [`Persistence`] over a [`Fetcher`].
#[derive(Clone)]
pub(super) struct Deliveries(Arc<Fetcher>);

impl Persistence for Deliveries {
    type Compact = Delivery;
    type Response = ();
    type Error = Infallible;

    async fn register(&mut self, _: &WorkerContext) -> Result<(), Infallible> {
        Ok(()) // the lease registers
    }

    async fn heartbeat(&mut self, _: &WorkerContext) -> Result<(), Infallible> {
        Ok(()) // the lease beats
    }

    async fn fetch_next(&mut self, _: &WorkerContext) -> Result<Vec<Task<Delivery>>, Infallible> {
        Ok(self.0.fetch().await.into_iter().map(Task::new).collect())
    }

    async fn reenqueue_abandoned(&mut self, _: Vec<Task<Delivery>>, _: &WorkerContext) -> Result<u64, Infallible> {
        Ok(0) // signing off gives back everything that Redis lists as held, these included
    }

    async fn handle_events(&mut self, _: Vec<TaskEvent<()>>, _: &WorkerContext) -> Result<(), Infallible> {
        Ok(()) // whoever finished the work settles it
    }

    async fn push_tasks(&mut self, _: Vec<Task<Delivery>>) -> Result<(), Infallible> {
        Ok(()) // nobody pushes through apalis: `enqueue` and `Queue::push` do
    }
}

/// Drives [`Deliveries`] as fast as [`super::pacing::Pacing`] says.
pub(super) struct QueueBackend {
    persisted: Persisted<Deliveries>,
    fetcher: Arc<Fetcher>,
    timer: Pin<Box<Sleep>>,
}

impl QueueBackend {
    pub fn new(state: Arc<WorkerState>) -> Self {
        let fetcher = Arc::new(Fetcher::new(state));
        let persisted = Persisted::new(Deliveries(Arc::clone(&fetcher)));
        Self { persisted, fetcher, timer: Box::pin(tokio::time::sleep(Duration::ZERO)) }
    }

    /// Whether `Persisted` would begin a fetch if it were polled now.
    fn would_fetch(&self) -> bool {
        matches!(self.persisted.state(), State::Ready)
    }

    /// Plans a fetch, or arranges to be polled again when one may be due.
    fn plan(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let state = self.fetcher.state();
        loop {
            if state.registered().is_none() {
                return Poll::Pending; // signing on wakes us
            }
            let step = state.pacing().step(Instant::now(), state.hands.load(), state.wake.announced());
            match step {
                Step::Fetch(plan) => {
                    self.fetcher.plan(plan);
                    return Poll::Ready(());
                }
                Step::WaitForHands => return Poll::Pending, // settling wakes us
                Step::WaitUntil(until) => {
                    self.timer.as_mut().reset(until);
                    if self.timer.as_mut().poll(cx).is_pending() {
                        return Poll::Pending;
                    }
                }
            }
        }
    }
}

impl Backend for QueueBackend {
    type Task = Task<Delivery>;
    type Error = Infallible;

    fn poll_ready(&mut self, cx: &mut Context<'_>, worker: &WorkerContext) -> Poll<Result<(), Infallible>> {
        self.persisted.poll_ready(cx, worker, HEARTBEAT)
    }

    fn poll_next(
        &mut self,
        cx: &mut Context<'_>,
        worker: &WorkerContext,
    ) -> Poll<Option<Result<Task<Delivery>, Infallible>>> {
        // Registered before anything is looked at: what changes after the look wakes us.
        self.fetcher.state().wake.register(cx.waker());
        loop {
            if self.would_fetch() && self.plan(cx).is_pending() {
                return Poll::Pending;
            }
            match self.persisted.poll_next(cx, worker) {
                Poll::Pending if self.would_fetch() => {} // it brought nothing: plan the next
                other => return other,
            }
        }
    }

    fn poll_close(&mut self, cx: &mut Context<'_>, worker: &WorkerContext) -> Poll<Result<(), Infallible>> {
        self.persisted.poll_close(cx, worker)
    }
}

impl BackendConfig for QueueBackend {
    type Args = Delivery;
    type Id = String;
    type Kind = Ephemeral;
    type Config = ();
    type Layer = Identity;

    fn config(&self) -> &() {
        &()
    }

    fn middleware(&mut self, _: &mut WorkerContext) -> Identity {
        Identity::new()
    }
}
