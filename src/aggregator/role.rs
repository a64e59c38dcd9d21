//! Cron as a role: folds and publishes, and keeps the schedule table.

use clap::Args;

use super::{Aggregator, run};
use crate::config::{
    AggregatorConfig, EventAgeConfig, OperationsConfig, PostgresConfig, QueueConfig, RedisConfig, RedisUse,
    RetentionConfig, ShutdownConfig, TelemetryConfig,
};
use crate::domain::clock::Clock;
use crate::lifecycle::Lifecycle;
use crate::operations::listener::Operations;
use crate::operations::start::{self, RunningRole, StartError};
use crate::ranking::Ranking;

const ROLE: &str = "cron";

/// Settings of cron.
#[derive(Args, Debug, Clone)]
pub struct CronSettings {
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
    /// Folding.
    #[command(flatten)]
    pub aggregator: AggregatorConfig,
    /// How long things are kept.
    #[command(flatten)]
    pub retention: RetentionConfig,
    /// Partitions.
    #[command(flatten)]
    pub event_age: EventAgeConfig,
    /// Stopping.
    #[command(flatten)]
    pub shutdown: ShutdownConfig,
}

/// Starts cron; returns when it folds.
///
/// # Errors
/// [`StartError`].
pub async fn start(settings: CronSettings, clock: Clock, lifecycle: &Lifecycle) -> Result<RunningRole, StartError> {
    let operations = Operations::start(ROLE, settings.operations.address(9083), lifecycle).await?;
    let (pool, _read) = start::postgres(&settings.postgres, &clock, &operations, lifecycle).await?;
    start::redis(RedisUse::Queue, &settings.redis, &operations, lifecycle).await?;
    start::redis(RedisUse::Ranking, &settings.redis, &operations, lifecycle).await?;
    let redis = &settings.redis;
    let ranking = Ranking::open(redis.url_of(RedisUse::Ranking), &redis.redis_prefix)
        .map_err(|error| StartError::Config(format!("REDIS_RANKING_URL: {error}")))?;
    let aggregator = Aggregator {
        config: settings.aggregator,
        pool,
        ranking,
        queue_url: redis.url_of(RedisUse::Queue).to_owned(),
        prefix: redis.redis_prefix.clone(),
        clock: clock.clone(),
        holder: start::process_id(ROLE, &clock),
    };
    lifecycle.spawn_essential("aggregator", run(aggregator, lifecycle.clone()));
    operations.readiness.started();
    Ok(RunningRole { role: ROLE, address: None, operations: operations.address })
}
