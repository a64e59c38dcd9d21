//! What every process is given, and everything that any process is given: flag > environment > default, the same names
//! everywhere. Each room has a struct of its own (`settings.rs`), which is flattened into those of the roles.

use std::net::SocketAddr;

use clap::Args;

use crate::aggregator::settings::{AggregatorConfig, RetentionConfig};
use crate::api::settings::ApiConfig;
use crate::http::settings::HttpConfig;
use crate::ingest::settings::{IngestConfig, LimitsConfig};
use crate::queue::settings::QueueConfig;
use crate::redis_connection::settings::RedisConfig;
use crate::store::settings::PostgresConfig;
use crate::telemetry::settings::TelemetryConfig;
use crate::workers::settings::WorkerConfig;

/// The operations listener: health, metrics. Never the public port.
#[derive(Args, Debug, Clone)]
pub struct OperationsConfig {
    /// Address of the operations listener (ingest 9080, api 9081, worker 9082, cron 9083).
    #[arg(long, env = "OPS_LISTEN")]
    pub ops_listen: Option<SocketAddr>,
}

impl OperationsConfig {
    /// The address, or this role's own port on loopback.
    pub fn address(&self, port: u16) -> SocketAddr {
        self.ops_listen.unwrap_or(SocketAddr::from(([127, 0, 0, 1], port)))
    }
}

/// Stopping.
#[derive(Args, Debug, Clone)]
pub struct ShutdownConfig {
    /// How long work in hand (requests, jobs) may take to finish at a stop.
    #[arg(long, env = "SHUTDOWN_GRACE_SECONDS", default_value_t = 20)]
    pub shutdown_grace_seconds: u64,
    /// How long listeners stay open after readiness turned off, for load balancers that need time to notice.
    #[arg(long, env = "SHUTDOWN_DRAIN_SECONDS", default_value_t = 0)]
    pub shutdown_drain_seconds: u64,
}

/// What every role is given.
#[derive(Args, Debug, Clone)]
pub struct RoleConfig {
    /// Redis.
    #[command(flatten)]
    pub redis: RedisConfig,
    /// Operations listener.
    #[command(flatten)]
    pub operations: OperationsConfig,
    /// Logs.
    #[command(flatten)]
    pub telemetry: TelemetryConfig,
    /// Stopping.
    #[command(flatten)]
    pub shutdown: ShutdownConfig,
}

/// Everything that any role is given, but where its operations listener is.
#[derive(Args, Debug, Clone)]
pub struct AllRolesConfig {
    /// Postgres.
    #[command(flatten)]
    pub postgres: PostgresConfig,
    /// Redis.
    #[command(flatten)]
    pub redis: RedisConfig,
    /// Logs.
    #[command(flatten)]
    pub telemetry: TelemetryConfig,
    /// Listeners.
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
    /// Writes.
    #[command(flatten)]
    pub worker: WorkerConfig,
    /// Folding.
    #[command(flatten)]
    pub aggregator: AggregatorConfig,
    /// How long things are kept.
    #[command(flatten)]
    pub retention: RetentionConfig,
    /// The api.
    #[command(flatten)]
    pub api: ApiConfig,
    /// Stopping.
    #[command(flatten)]
    pub shutdown: ShutdownConfig,
}
