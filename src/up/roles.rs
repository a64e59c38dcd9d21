//! All four roles in one process.

use std::net::SocketAddr;

use clap::Args;
use futures_util::TryFutureExt as _;

use super::command::UpConfig;
use crate::domain::clock::Clock;
use crate::process::roles::api::{self, ApiRoleSettings};
use crate::process::roles::cron::{self, CronSettings};
use crate::process::roles::ingest::{self, IngestRoleSettings};
use crate::process::roles::worker::{self, WorkerSettings};
use crate::process::settings::{OperationsConfig, RoleConfig};
use crate::process::start::{RunningRole, StartError};
use crate::runtime::lifecycle::Lifecycle;
use crate::store::settings::EventAgeConfig;

/// Operations listeners by role.
#[derive(Args, Debug, Clone)]
pub struct OperationsAddresses {
    /// Operations listener of ingest.
    #[arg(long, env = "INGEST_OPS_LISTEN", default_value = "127.0.0.1:9080")]
    pub ingest_ops_listen: SocketAddr,
    /// Operations listener of the api.
    #[arg(long, env = "API_OPS_LISTEN", default_value = "127.0.0.1:9081")]
    pub api_ops_listen: SocketAddr,
    /// Operations listener of the worker.
    #[arg(long, env = "WORKER_OPS_LISTEN", default_value = "127.0.0.1:9082")]
    pub worker_ops_listen: SocketAddr,
    /// Operations listener of cron.
    #[arg(long, env = "CRON_OPS_LISTEN", default_value = "127.0.0.1:9083")]
    pub cron_ops_listen: SocketAddr,
}

/// What each role is started with.
#[derive(Debug, Clone)]
pub struct RoleSettings {
    ingest: IngestRoleSettings,
    worker: WorkerSettings,
    cron: CronSettings,
    api: ApiRoleSettings,
}

impl RoleSettings {
    /// The same settings as `up` was given, with each role's own operations listener.
    pub fn of(config: &UpConfig) -> Self {
        let all = &config.roles;
        let role = |address| RoleConfig {
            redis: all.redis.clone(),
            operations: OperationsConfig { ops_listen: Some(address) },
            telemetry: all.telemetry.clone(),
            shutdown: all.shutdown.clone(),
        };
        let event_age = EventAgeConfig { max_event_age_seconds: all.ingest.max_event_age_seconds };
        let addresses = &config.operations;
        Self {
            ingest: IngestRoleSettings {
                role: role(addresses.ingest_ops_listen),
                http: all.http.clone(),
                limits: all.limits.clone(),
                ingest: all.ingest.clone(),
                queue: all.queue.clone(),
            },
            worker: WorkerSettings {
                role: role(addresses.worker_ops_listen),
                postgres: all.postgres.clone(),
                queue: all.queue.clone(),
                worker: all.worker.clone(),
                event_age: event_age.clone(),
            },
            cron: CronSettings {
                role: role(addresses.cron_ops_listen),
                postgres: all.postgres.clone(),
                queue: all.queue.clone(),
                aggregator: all.aggregator.clone(),
                retention: all.retention.clone(),
                event_age,
            },
            api: ApiRoleSettings {
                role: role(addresses.api_ops_listen),
                postgres: all.postgres.clone(),
                http: all.http.clone(),
                api: all.api.clone(),
            },
        }
    }
}

/// Roles that run.
#[derive(Debug, Clone)]
pub struct Running {
    /// The door in.
    pub ingest: RunningRole,
    /// Runs jobs.
    pub worker: RunningRole,
    /// Folds, publishes, schedules.
    pub cron: RunningRole,
    /// The door out.
    pub api: RunningRole,
}

impl Running {
    /// `http://host:port` of ingest.
    pub fn ingest_url(&self) -> String {
        url(&self.ingest)
    }

    /// `http://host:port` of the api.
    pub fn api_url(&self) -> String {
        url(&self.api)
    }
}

fn url(role: &RunningRole) -> String {
    role.address.map(|address| format!("http://{address}")).unwrap_or_default()
}

/// Starts all of them.
///
/// # Errors
/// The first that did not start; the others stop with `lifecycle`.
pub async fn start_all(settings: RoleSettings, clock: &Clock, lifecycle: &Lifecycle) -> Result<Running, StartError> {
    // One that fails stops the others and drops none: a start that is dropped half way leaves behind what it began.
    let failed = |setting: &'static str| {
        move |error: StartError| {
            lifecycle.soft.cancel();
            error.with_operations_named(setting)
        }
    };
    let (worker, cron, api, ingest) = tokio::join!(
        worker::start(settings.worker, clock.clone(), lifecycle).map_err(failed("WORKER_OPS_LISTEN")),
        cron::start(settings.cron, clock.clone(), lifecycle).map_err(failed("CRON_OPS_LISTEN")),
        api::start(settings.api, clock.clone(), lifecycle).map_err(failed("API_OPS_LISTEN")),
        ingest::start(settings.ingest, clock.clone(), lifecycle).map_err(failed("INGEST_OPS_LISTEN")),
    );
    match (worker, cron, api, ingest) {
        (Ok(worker), Ok(cron), Ok(api), Ok(ingest)) => Ok(Running { ingest, worker, cron, api }),
        (worker, cron, api, ingest) => {
            let mut errors: Vec<_> =
                [worker.err(), cron.err(), api.err(), ingest.err()].into_iter().flatten().collect();
            // That others were stopped is not why.
            errors.sort_by_key(|error| matches!(error, StartError::Stopped(_)));
            Err(errors.swap_remove(0))
        }
    }
}
