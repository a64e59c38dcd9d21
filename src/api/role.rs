//! The api as a role: connects, waits for the directory, serves.

use clap::Args;

use super::{ApiSettings, ApiState, router};
use crate::config::{
    ApiConfig, HttpConfig, OperationsConfig, PostgresConfig, RedisConfig, RedisUse, ShutdownConfig, TelemetryConfig,
};
use crate::directory;
use crate::domain::clock::Clock;
use crate::lifecycle::Lifecycle;
use crate::operations::listener::Operations;
use crate::operations::start::{self, QUEUE_NAME, RunningRole, StartError};
use crate::ranking::Ranking;

const ROLE: &str = "api";

/// Settings of the api.
#[derive(Args, Debug, Clone)]
pub struct ApiRoleSettings {
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
    /// Listener.
    #[command(flatten)]
    pub http: HttpConfig,
    /// The api.
    #[command(flatten)]
    pub api: ApiConfig,
    /// Stopping.
    #[command(flatten)]
    pub shutdown: ShutdownConfig,
}

/// Starts the api; returns when it serves.
///
/// # Errors
/// [`StartError`].
pub async fn start(settings: ApiRoleSettings, clock: Clock, lifecycle: &Lifecycle) -> Result<RunningRole, StartError> {
    let operations = Operations::start(ROLE, settings.operations.address(9081), lifecycle).await?;
    let (pool, replica) = start::postgres(&settings.postgres, &clock, &operations, lifecycle).await?;
    start::redis(RedisUse::Ranking, &settings.redis, &operations, lifecycle).await?;
    let queue = start::queue(&settings.redis, &operations, lifecycle).await?;
    let directory = start::directory(&settings.redis, &operations, lifecycle).await?;
    let redis = &settings.redis;
    let ranking = Ranking::open(redis.url_of(RedisUse::Ranking), &redis.redis_prefix)
        .map_err(|error| StartError::Config(format!("REDIS_RANKING_URL: {error}")))?;
    let cache_redis = directory::connect(redis.url_of(RedisUse::Cache))
        .await
        .map_err(|error| StartError::Part(format!("REDIS_CACHE_URL: {error}")))?;
    let state = ApiState::new(ApiSettings {
        directory,
        pool,
        replica,
        ranking,
        queue,
        queue_name: QUEUE_NAME.to_owned(),
        cache_redis,
        redis_prefix: redis.redis_prefix.clone(),
        clock,
        config: settings.api.clone(),
        http: settings.http.clone(),
    })
    .map_err(|weak| StartError::Config(weak.to_string()))?;
    lifecycle.spawn_essential("board-notices", state.clone().follow_boards(lifecycle.soft.clone()));
    let router = router(state);
    let (listener, address) = start::listen("API_LISTEN", settings.api.api_listen).await?;
    start::serve(ROLE, listener, router, &settings.http, &settings.shutdown, lifecycle);
    operations.readiness.started();
    Ok(RunningRole { role: ROLE, address: Some(address), operations: operations.address })
}
