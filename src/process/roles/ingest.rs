//! Ingest as a role: connects, waits for the directory, serves.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;

use crate::domain::clock::Clock;
use crate::http::settings::HttpConfig;
use crate::ingest::settings::{IngestConfig, LimitsConfig};
use crate::ingest::{self, DoorSettings, IngestState};
use crate::process::entry_point;
use crate::process::listener::Operations;
use crate::process::readiness::Readiness;
use crate::process::settings::RoleConfig;
use crate::process::start::{self, Hold, RunningRole, StartError};
use crate::queue::enqueue::EnqueueError;
use crate::queue::settings::QueueConfig;
use crate::redis_connection::settings::RedisUse;
use crate::runtime::lifecycle::Lifecycle;

const ROLE: &str = "ingest";
/// How often `/readyz` hears whether batches are taken.
const TELL_EVERY: Duration = Duration::from_millis(500);

/// Settings of ingest. It has no Postgres connection.
#[derive(Args, Debug, Clone)]
pub struct IngestRoleSettings {
    /// What every role is given.
    #[command(flatten)]
    pub role: RoleConfig,
    /// Listener.
    #[command(flatten)]
    pub http: HttpConfig,
    /// Limits.
    #[command(flatten)]
    pub limits: LimitsConfig,
    /// What is accepted.
    #[command(flatten)]
    pub ingest: IngestConfig,
    /// The queue.
    #[command(flatten)]
    pub queue: QueueConfig,
}

/// Starts ingest; returns when it serves.
///
/// # Errors
/// [`StartError`].
pub async fn start(
    settings: IngestRoleSettings,
    clock: Clock,
    lifecycle: &Lifecycle,
) -> Result<RunningRole, StartError> {
    let operations = Operations::start(ROLE, settings.role.operations.address(9080), &clock, lifecycle).await?;
    start::redis(RedisUse::Queue, &settings.role.redis, &operations, lifecycle).await?;
    if settings.role.redis.url_of(RedisUse::Limits) != settings.role.redis.url_of(RedisUse::Queue) {
        start::redis(RedisUse::Limits, &settings.role.redis, &operations, lifecycle).await?;
    }
    let directory = start::directory(&settings.role.redis, None, &operations, lifecycle).await?;
    let door = DoorSettings {
        ingest: settings.ingest.clone(),
        limits: settings.limits,
        http: settings.http.clone(),
        queue: settings.queue,
        redis: settings.role.redis,
    };
    let state = start::wait_for("queue", &operations, lifecycle, || async {
        let opened = ingest::open(door.clone(), Arc::clone(&directory), clock.clone(), lifecycle).await;
        opened.map_err(|error| match error {
            EnqueueError::Unreachable(_) => Hold::Wait(error.to_string()),
            error => Hold::Never(StartError::Config(format!("the queue: {error}"))),
        })
    })
    .await?;
    lifecycle.tasks.spawn(tell(state.clone(), operations.readiness.clone(), lifecycle.clone()));
    let router = ingest::router(state);
    let (listener, address) = start::listen("INGEST_LISTEN", settings.ingest.ingest_listen).await?;
    start::serve(ROLE, listener, router, &settings.http, &settings.role.shutdown, &clock, lifecycle);
    operations.readiness.started();
    Ok(RunningRole { role: ROLE, address: Some(address), operations: operations.address })
}

/// Tells `/readyz` whether batches are taken, until the process stops: a Redis that is full answers questions.
pub async fn tell(state: IngestState, readiness: Readiness, lifecycle: Lifecycle) {
    while tokio::time::timeout(TELL_EVERY, lifecycle.soft.cancelled()).await.is_err() {
        match state.admission().closed() {
            Some(closed) => readiness.unready("admission", closed.reason()),
            None => readiness.ready("admission", "open"),
        }
    }
}

/// Runs ingest as a process, until it is told to stop.
pub fn run(settings: IngestRoleSettings) -> ExitCode {
    let config = settings.role.clone();
    let begin = |clock: Clock, lifecycle: Lifecycle| async move { start(settings, clock, &lifecycle).await };
    entry_point::run(&config, Box::new(|clock, lifecycle| Box::pin(begin(clock, lifecycle))))
}
