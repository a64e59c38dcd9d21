//! A worker: apalis underneath, with a lease of its own and a clean end.

use std::sync::Arc;

use apalis_core::monitor::Monitor;
use apalis_core::worker::builder::WorkerBuilder;
use futures_util::FutureExt;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::backend::QueueBackend;
use super::client::Queue;
use super::delivery::Delivery;
use super::lease;
use super::settlement::Settlement;
use super::wake::listen;
pub use super::worker_options::{MOST_JOBS, OldestInHand, WorkerOptions};
use super::worker_state::WorkerState;
use crate::runtime::lifecycle::Lifecycle;

/// Runs one job and sees it through to its settlement ([`Delivery::settler`]). Many run at once. It runs in a task of
/// its own, which nothing cancels but the end of the process. A job whose runner returns or panics without
/// settling it is settled as [`Settlement::Retry`].
pub trait JobRunner: Clone + Send + Sync + 'static {
    /// Runs `job`.
    fn run(&self, job: Delivery) -> impl Future<Output = ()> + Send;
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
