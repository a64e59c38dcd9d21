//! The worker as a role: connects, makes sure of the partitions, runs jobs.

use clap::Args;

use crate::config::{
    EventAgeConfig, OperationsConfig, PostgresConfig, QueueConfig, RedisConfig, RedisUse, ShutdownConfig,
    TelemetryConfig, WorkerConfig,
};
use crate::domain::clock::Clock;
use crate::lifecycle::Lifecycle;
use crate::operations::listener::Operations;
use crate::operations::start::{self, RunningRole, StartError};

const ROLE: &str = "worker";

/// Settings of the worker.
#[derive(Args, Debug, Clone)]
pub struct WorkerSettings {
    /// Postgres.
    #[command(flatten)]
    pub postgres: PostgresConfig,
    /// Redis.
    #[command(flatten)]
    pub redis: RedisConfig,
    /// Operations listener.
    #[command(flatten)]
    pub operations: OperationsConfig,
    /// Logs.
    #[command(flatten)]
    pub telemetry: TelemetryConfig,
    /// The queue.
    #[command(flatten)]
    pub queue: QueueConfig,
    /// Writes.
    #[command(flatten)]
    pub worker: WorkerConfig,
    /// Partitions.
    #[command(flatten)]
    pub event_age: EventAgeConfig,
    /// Stopping.
    #[command(flatten)]
    pub shutdown: ShutdownConfig,
}

/// Starts the worker; returns when it takes jobs.
///
/// # Errors
/// [`StartError`].
pub async fn start(settings: WorkerSettings, clock: Clock, lifecycle: &Lifecycle) -> Result<RunningRole, StartError> {
    let operations = Operations::start(ROLE, settings.operations.address(9082), lifecycle).await?;
    let (pool, _read) = start::postgres(&settings.postgres, &clock, &operations, lifecycle).await?;
    start::redis(RedisUse::Queue, &settings.redis, &operations, lifecycle).await?;
    let _ = pool;
    operations.readiness.started();
    Ok(RunningRole { role: ROLE, address: None, operations: operations.address })
}
