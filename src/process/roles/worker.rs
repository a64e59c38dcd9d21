//! The worker as a role: connects, makes sure of the partitions, runs jobs.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use tokio::time::Instant;

use crate::domain::clock::Clock;
use crate::process::entry_point;
use crate::process::listener::Operations;
use crate::process::readiness::Readiness;
use crate::process::settings::RoleConfig;
use crate::process::start::{self, QUEUE_NAME, RunningRole, StartError};
use crate::queue::observe::observe;
use crate::queue::settings::QueueConfig;
use crate::queue::worker::{OldestInHand, WorkerOptions, run_worker};
use crate::runtime::lifecycle::Lifecycle;
use crate::store::settings::{EventAgeConfig, PostgresConfig};
use crate::workers::health::WorkHealth;
use crate::workers::persist_events::PersistEvents;
use crate::workers::settings::WorkerConfig;
use crate::workers::{Jobs, dead_letters};

const ROLE: &str = "worker";
/// How often `/readyz` hears what the work met.
const TELL_EVERY: Duration = Duration::from_millis(500);
/// A job that is in hand for longer is stuck, whatever servers say of themselves.
const STUCK_AFTER: Duration = Duration::from_secs(60);

/// Settings of the worker.
#[derive(Args, Debug, Clone)]
pub struct WorkerSettings {
    /// Postgres.
    #[command(flatten)]
    pub postgres: PostgresConfig,
    /// What every role is given.
    #[command(flatten)]
    pub role: RoleConfig,
    /// The queue.
    #[command(flatten)]
    pub queue: QueueConfig,
    /// Writes.
    #[command(flatten)]
    pub worker: WorkerConfig,
    /// Partitions.
    #[command(flatten)]
    pub event_age: EventAgeConfig,
}

/// Starts the worker; returns when it takes jobs.
///
/// # Errors
/// [`StartError`].
pub async fn start(settings: WorkerSettings, clock: Clock, lifecycle: &Lifecycle) -> Result<RunningRole, StartError> {
    let operations = Operations::start(ROLE, settings.role.operations.address(9082), &clock, lifecycle).await?;
    let (pool, _read) = start::postgres(&settings.postgres, &clock, &operations, lifecycle).await?;
    let max_age = settings.event_age.max_event_age_seconds;
    start::partitions(&pool, &clock, max_age, &operations, lifecycle).await?;
    let queue = start::queue(&settings.role.redis, &operations, lifecycle).await?;
    let (health, in_hand) = (Arc::new(WorkHealth::default()), Arc::new(OldestInHand::default()));
    let persist_events = start::wait_for("definitions", &operations, lifecycle, || async {
        let health = Arc::clone(&health);
        Ok(PersistEvents::start(&settings.worker, pool.clone(), QUEUE_NAME, health, lifecycle).await?)
    })
    .await?;
    let options = WorkerOptions {
        max_in_hand: settings.worker.worker_max_jobs,
        lease: Duration::from_secs(settings.queue.queue_lease_seconds),
        grace: Duration::from_secs(settings.role.shutdown.shutdown_grace_seconds),
        oldest_in_hand: Arc::clone(&in_hand),
        ..WorkerOptions::default()
    };
    let runs = run_worker(queue.clone(), options, Jobs { persist_events }, lifecycle.clone());
    lifecycle.spawn_essential("jobs", runs);
    lifecycle.tasks.spawn(observe(queue.clone(), ROLE, lifecycle.soft.clone()));
    let buries = dead_letters::run(queue, pool, QUEUE_NAME.to_owned(), lifecycle.clone());
    lifecycle.spawn_essential("dead-letters", buries);
    lifecycle.tasks.spawn(tell(health, in_hand, operations.readiness.clone(), lifecycle.clone()));
    operations.readiness.started();
    Ok(RunningRole { role: ROLE, address: None, operations: operations.address })
}

/// Tells `/readyz` what the work itself met, until the process stops.
async fn tell(health: Arc<WorkHealth>, in_hand: Arc<OldestInHand>, readiness: Readiness, lifecycle: Lifecycle) {
    while tokio::time::timeout(TELL_EVERY, lifecycle.soft.cancelled()).await.is_err() {
        let now = Instant::now();
        let stuck = in_hand.age().filter(|age| *age >= STUCK_AFTER);
        let stuck = stuck.map(|age| format!("the oldest job has been in hand for {} s", age.as_secs()));
        match health.trouble(now).or(stuck) {
            Some(trouble) => readiness.unready("work", trouble),
            None => readiness.ready("work", "goes on"),
        }
        match health.set_aside(now) {
            Some(games) => readiness.unready("blocked", games),
            None => readiness.ready("blocked", "nothing"),
        }
    }
}

/// Runs the worker as a process, until it is told to stop.
pub fn run(settings: WorkerSettings) -> ExitCode {
    let config = settings.role.clone();
    let begin = |clock: Clock, lifecycle: Lifecycle| async move { start(settings, clock, &lifecycle).await };
    entry_point::run(&config, Box::new(|clock, lifecycle| Box::pin(begin(clock, lifecycle))))
}
