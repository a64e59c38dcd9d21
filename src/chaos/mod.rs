//! `scoreline chaos`: the real processes under every fault that docs/reliability.md lists, and the account at the end.
//!
//! A run starts private services, the role binaries as processes of their own, and a fault proxy on every way between
//! them. Clients keep account of what they sent and were told. Faults come one after another, at moments and with
//! parameters that are a pure function of the seed; after each one the run measures how soon work goes on. At the end,
//! when everything is healed and quiet, what is stored and shown is compared with the accounts.

pub mod accounts;
mod boards;
pub mod command;
mod command_line;
mod disk;
mod editor;
mod faults;
pub mod habits;
mod nuisance;
mod oracle;
mod plan;
mod prepare;
mod probe;
pub mod proxy;
mod readiness;
mod report;
mod scenario;
pub mod sent;
pub mod shown;
mod waiting;
mod watcher;
mod world;

/// What to do and for how long.
#[derive(clap::Args, Debug, Clone)]
pub struct Options {
    /// Chooses the faults, their moments and the load. Without it one is chosen and printed.
    #[arg(long)]
    pub seed: Option<u64>,
    /// How long the run takes in all, about.
    #[arg(long, default_value_t = 5.0)]
    pub minutes: f64,
    /// Only these faults, by the names that the report uses, separated by commas.
    #[arg(long, value_delimiter = ',')]
    pub only: Vec<String>,
    /// Print the first faults of the seed's schedule, and do nothing.
    #[arg(long)]
    pub plan: bool,
    /// Clients that send.
    #[arg(long, default_value_t = 3)]
    pub clients: u64,
    /// Pause of a client between two batches, in milliseconds.
    #[arg(long, default_value_t = 40)]
    pub pause_millis: u64,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// Why a run could not go on. A system that broke a promise is no error but a finding of the report.
#[derive(Debug, thiserror::Error)]
pub enum ChaosError {
    /// The processes.
    #[error(transparent)]
    Rig(#[from] crate::bench::rig::RigError),
    /// The private services.
    #[error(transparent)]
    Stack(#[from] crate::stack::StackError),
    /// Postgres, asked directly.
    #[error("Postgres: {0}")]
    Postgres(#[from] sqlx::Error),
    /// Redis, asked directly.
    #[error("Redis: {0}")]
    Redis(#[from] redis::RedisError),
    /// The operating system.
    #[error("{0}: {1}")]
    Io(&'static str, #[source] std::io::Error),
    /// The run's own arrangements.
    #[error("{0}")]
    Setup(String),
    /// Ctrl-C, or an order to stop.
    #[error("interrupted")]
    Interrupted,
}
