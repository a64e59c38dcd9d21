//! Configuration: flag > environment > default, the same names everywhere. One struct per concern, flattened into
//! each binary's own.

mod limits;

use std::net::SocketAddr;

use clap::Args;
use secrecy::SecretString;

use crate::aggregator::settings::{AggregatorConfig, RetentionConfig};
use crate::http::settings::HttpConfig;
use crate::ingest::settings::{IngestConfig, LimitsConfig};
use crate::queue::settings::QueueConfig;
use crate::redis_connection::settings::RedisConfig;
use crate::store::settings::PostgresConfig;
use crate::telemetry::settings::TelemetryConfig;
use crate::workers::settings::WorkerConfig;

pub use limits::GameBounds;

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

/// The api.
#[derive(Args, Debug, Clone)]
pub struct ApiConfig {
    /// Public address of the api.
    #[arg(long = "api-listen", env = "API_LISTEN", default_value = "127.0.0.1:8081")]
    pub api_listen: SocketAddr,
    /// The operators' token, at least 24 characters. Without it the admin routes take server keys only.
    #[arg(long, env = "ADMIN_TOKEN", hide_env_values = true)]
    pub admin_token: Option<SecretString>,
    /// `max-age` of public answers, in seconds.
    #[arg(long, env = "PUBLIC_MAX_AGE", default_value_t = 1)]
    pub public_max_age: u32,
    /// Reads without a key of one address within a minute that ask Postgres (archived periods, `include=`, lists of
    /// periods); 0: any number.
    #[arg(long, env = "RATE_LIMIT_PUBLIC_READS", default_value_t = 1_200)]
    pub rate_limit_public_reads: u32,
    /// What one game may have.
    #[command(flatten)]
    pub bounds: GameBounds,
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
