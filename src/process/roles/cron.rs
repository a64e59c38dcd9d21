//! Cron as a role: folds and publishes, and keeps the schedule table.

use std::process::ExitCode;
use std::sync::Arc;

use clap::Args;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::aggregator::fold_health::FoldHealth;
use crate::aggregator::schedule::{self, Context};
use crate::aggregator::settings::{AggregatorConfig, RetentionConfig};
use crate::aggregator::{self, Aggregator, hooks, retention};
use crate::domain::clock::Clock;
use crate::process::entry_point;
use crate::process::listener::Operations;
use crate::process::settings::RoleConfig;
use crate::process::start::{self, RunningRole, StartError};
use crate::process::watch;
use crate::queue::observe::observe;
use crate::queue::settings::QueueConfig;
use crate::ranking::Ranking;
use crate::redis_connection::settings::RedisUse;
use crate::runtime::lifecycle::Lifecycle;
use crate::store::settings::{EventAgeConfig, PostgresConfig};

const ROLE: &str = "cron";

/// Settings of cron.
#[derive(Args, Debug, Clone)]
pub struct CronSettings {
    /// Postgres.
    #[command(flatten)]
    pub postgres: PostgresConfig,
    /// What every role is given.
    #[command(flatten)]
    pub role: RoleConfig,
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
}

/// Starts cron; returns when it folds.
///
/// # Errors
/// [`StartError`].
pub async fn start(settings: CronSettings, clock: Clock, lifecycle: &Lifecycle) -> Result<RunningRole, StartError> {
    retention::check_settings(settings.retention.retention_days, settings.event_age.max_event_age_seconds)
        .map_err(|error| StartError::Config(error.to_string()))?;
    let operations = Operations::start(ROLE, settings.role.operations.address(9083), &clock, lifecycle).await?;
    let (pool, _read) = start::postgres(&settings.postgres, &clock, &operations, lifecycle).await?;
    let queue = start::queue(&settings.role.redis, &operations, lifecycle).await?;
    let cache = start::redis(RedisUse::Cache, &settings.role.redis, &operations, lifecycle).await?;
    start::redis(RedisUse::Ranking, &settings.role.redis, &operations, lifecycle).await?;
    let redis = &settings.role.redis;
    let ranking = Ranking::open(redis.url_of(RedisUse::Ranking), &redis.redis_prefix)
        .map_err(|error| StartError::Config(format!("REDIS_RANKING_URL: {error}")))?;
    let max_age = settings.event_age.max_event_age_seconds;
    start::partitions(&pool, &clock, max_age, &operations, lifecycle).await?;
    lifecycle.tasks.spawn(observe(queue.clone(), ROLE, lifecycle.soft.clone()));
    let holder = start::process_id(ROLE, &clock);
    let directory_changed = Arc::new(Notify::new());
    let recompute_wanted = Arc::new(Notify::new());
    let context = Context {
        pool: pool.clone(),
        ranking: ranking.clone(),
        clock: clock.clone(),
        holder: holder.clone(),
        retention: settings.retention,
        max_event_age_seconds: settings.event_age.max_event_age_seconds,
        queue_low_water: hooks::low_water(queue.clone()),
        database_clock: hooks::database_clock(pool.clone()),
        announce_facts: hooks::announce_facts(queue),
        directory_changed: hooks::wake(&directory_changed),
        recompute_wanted: Arc::clone(&recompute_wanted),
        stop: lifecycle.soft.clone(),
    };
    lifecycle.spawn_essential("schedule", schedule::run(context, lifecycle.clone()));
    let (prefix, stop) = (redis.redis_prefix.clone(), lifecycle.soft.clone());
    let publishing = hooks::publish_directory(pool.clone(), cache, prefix, directory_changed, stop);
    lifecycle.spawn_essential("publish-directory", publishing);
    let (cache, stop) = (redis.url_of(RedisUse::Cache).to_owned(), lifecycle.soft.clone());
    let following = hooks::follow_definitions(cache, redis.redis_prefix.clone(), recompute_wanted, stop);
    lifecycle.spawn_essential("follow-definitions", following);
    let health = Arc::new(FoldHealth::default());
    let aggregator = Aggregator {
        config: settings.aggregator,
        pool,
        ranking,
        queue_url: redis.url_of(RedisUse::Queue).to_owned(),
        prefix: redis.redis_prefix.clone(),
        clock,
        holder,
        health: Arc::clone(&health),
    };
    watch::work(move || health.trouble(Instant::now()), operations.readiness.clone(), lifecycle);
    lifecycle.spawn_essential("aggregator", aggregator::run(aggregator, lifecycle.clone()));
    operations.readiness.started();
    Ok(RunningRole { role: ROLE, address: None, operations: operations.address })
}

/// Runs cron as a process, until it is told to stop.
pub fn run(settings: CronSettings) -> ExitCode {
    let config = settings.role.clone();
    let begin = |clock: Clock, lifecycle: Lifecycle| async move { start(settings, clock, &lifecycle).await };
    entry_point::run(&config, Box::new(|clock, lifecycle| Box::pin(begin(clock, lifecycle))))
}
