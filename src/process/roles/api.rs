//! The api as a role: connects, waits for the directory, serves.

use std::process::ExitCode;

use clap::Args;

use crate::api::settings::ApiConfig;
use crate::api::{ApiSettings, ApiState, router};
use crate::domain::clock::Clock;
use crate::http::settings::HttpConfig;
use crate::process::entry_point;
use crate::process::listener::Operations;
use crate::process::settings::RoleConfig;
use crate::process::start::{self, QUEUE_NAME, RunningRole, StartError};
use crate::ranking::Ranking;
use crate::redis_connection::settings::RedisUse;
use crate::redis_connection::{Connection, Timeouts};
use crate::runtime::lifecycle::Lifecycle;
use crate::store::settings::PostgresConfig;

const ROLE: &str = "api";

/// Settings of the api.
#[derive(Args, Debug, Clone)]
pub struct ApiRoleSettings {
    /// Postgres.
    #[command(flatten)]
    pub postgres: PostgresConfig,
    /// What every role is given.
    #[command(flatten)]
    pub role: RoleConfig,
    /// Listener.
    #[command(flatten)]
    pub http: HttpConfig,
    /// The api.
    #[command(flatten)]
    pub api: ApiConfig,
}

/// Starts the api; returns when it serves.
///
/// # Errors
/// [`StartError`].
pub async fn start(settings: ApiRoleSettings, clock: Clock, lifecycle: &Lifecycle) -> Result<RunningRole, StartError> {
    let operations = Operations::start(ROLE, settings.role.operations.address(9081), &clock, lifecycle).await?;
    let (pool, replica) = start::postgres(&settings.postgres, &clock, &operations, lifecycle).await?;
    start::redis(RedisUse::Ranking, &settings.role.redis, &operations, lifecycle).await?;
    let queue = start::queue(&settings.role.redis, &operations, lifecycle).await?;
    let directory = start::directory(&settings.role.redis, Some(&pool), &operations, lifecycle).await?;
    let redis = &settings.role.redis;
    let ranking = Ranking::open(redis.url_of(RedisUse::Ranking), &redis.redis_prefix)
        .map_err(|error| StartError::Config(format!("REDIS_RANKING_URL: {error}")))?;
    let cache_redis = Connection::open(redis.url_of(RedisUse::Cache), Timeouts::default())
        .map_err(|error| StartError::Config(format!("REDIS_CACHE_URL: {error}")))?;
    let state = ApiState::new(ApiSettings {
        directory,
        pool,
        replica,
        ranking,
        queue,
        queue_name: QUEUE_NAME.to_owned(),
        cache_redis,
        redis_prefix: redis.redis_prefix.clone(),
        clock: clock.clone(),
        config: settings.api.clone(),
        http: settings.http.clone(),
    })
    .map_err(|weak| StartError::Config(weak.to_string()))?;
    lifecycle.spawn_essential("board-notices", state.clone().follow_boards(lifecycle.soft.clone()));
    let router = router(state);
    let (listener, address) = start::listen("API_LISTEN", settings.api.api_listen).await?;
    start::serve(ROLE, listener, router, &settings.http, &settings.role.shutdown, &clock, lifecycle);
    operations.readiness.started();
    Ok(RunningRole { role: ROLE, address: Some(address), operations: operations.address })
}

/// Runs the api as a process, until it is told to stop.
pub fn run(settings: ApiRoleSettings) -> ExitCode {
    let config = settings.role.clone();
    let begin = |clock: Clock, lifecycle: Lifecycle| async move { start(settings, clock, &lifecycle).await };
    entry_point::run(&config, Box::new(|clock, lifecycle| Box::pin(begin(clock, lifecycle))))
}
