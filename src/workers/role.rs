//! The worker as a role: connects, makes sure of the partitions, runs jobs.

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;

use super::persist_events::PersistEvents;
use super::{Jobs, dead_letters};
use crate::config::{EventAgeConfig, PostgresConfig, QueueConfig, RoleConfig, WorkerConfig};
use crate::domain::clock::Clock;
use crate::lifecycle::Lifecycle;
use crate::operations::listener::Operations;
use crate::operations::process;
use crate::operations::start::{self, QUEUE_NAME, RunningRole, StartError};
use crate::queue::observe::observe;
use crate::queue::worker::{WorkerOptions, run_worker};

const ROLE: &str = "worker";

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
    let operations = Operations::start(ROLE, settings.role.operations.address(9082), lifecycle).await?;
    let (pool, _read) = start::postgres(&settings.postgres, &clock, &operations, lifecycle).await?;
    start::partitions(&pool, &clock, settings.event_age.max_event_age_seconds).await?;
    let queue = start::queue(&settings.role.redis, &operations, lifecycle).await?;
    let persist_events = PersistEvents::start(&settings.worker, pool.clone(), QUEUE_NAME, lifecycle)
        .await
        .map_err(|error| StartError::Part(format!("cannot read the leaderboards' definitions: {error}")))?;
    let options = WorkerOptions {
        max_in_hand: settings.worker.worker_max_jobs,
        lease: Duration::from_secs(settings.queue.queue_lease_seconds),
        grace: Duration::from_secs(settings.role.shutdown.shutdown_grace_seconds),
        ..WorkerOptions::default()
    };
    let runs = run_worker(queue.clone(), options, Jobs { persist_events }, lifecycle.clone());
    lifecycle.spawn_essential("jobs", runs);
    lifecycle.tasks.spawn(observe(queue.clone(), ROLE, lifecycle.soft.clone()));
    let buries = dead_letters::run(queue, pool, QUEUE_NAME.to_owned(), lifecycle.clone());
    lifecycle.spawn_essential("dead-letters", buries);
    operations.readiness.started();
    Ok(RunningRole { role: ROLE, address: None, operations: operations.address })
}

/// Runs the worker as a process, until it is told to stop.
pub fn run(settings: WorkerSettings) -> ExitCode {
    let config = settings.role.clone();
    let begin = |lifecycle: Lifecycle| async move { start(settings, Clock::system(), &lifecycle).await };
    process::run(&config, Box::new(|lifecycle| Box::pin(begin(lifecycle))))
}
