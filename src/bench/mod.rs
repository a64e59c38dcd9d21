//! `scoreline bench`: measures each stage beside its own limit and the whole path with the CPU of every process.
//!
//! It starts private services and the real role binaries as processes of their own, so the load generator's CPU is
//! never charged to the system. Compare ratios within one run: machines differ and drift.

pub mod bare_drain;
pub mod bare_fold;
pub mod batch;
pub mod command;
pub mod compare;
pub mod cpu;
pub mod grown;
pub mod interval;
pub mod latency;
pub mod limit_server;
pub mod load;
pub mod paired;
pub mod pipeline;
pub mod report;
pub mod rig;
pub mod stored;
pub mod whole;

use std::path::PathBuf;
use std::time::Duration;

/// What to measure and how long.
#[derive(clap::Args, Debug, Clone)]
pub struct Options {
    /// Stages: steps, whole, single (one process), stored (no scores), idle, sustained, read, rest; all when none is
    /// named. With --against: whole, single, stored; whole when none is named.
    #[arg(value_delimiter = ',')]
    pub stages: Vec<String>,
    /// Rounds of each comparison.
    #[arg(long, default_value_t = 3)]
    pub rounds: u32,
    /// Events a round.
    #[arg(long, default_value_t = 1_600_000)]
    pub events: u64,
    /// Connections of the load generator.
    #[arg(long, default_value_t = 16)]
    pub connections: usize,
    /// Events in a batch.
    #[arg(long, default_value_t = 20)]
    pub batch: usize,
    /// Players.
    #[arg(long, default_value_t = 1_000_000)]
    pub players: u32,
    /// Requests a round of reading.
    #[arg(long, default_value_t = 200_000)]
    pub reads: u64,
    /// Connections that read. With few of them everybody waits for the slowest hop and cores are idle: that would
    /// compare latencies, not what a machine carries.
    #[arg(long, default_value_t = 64)]
    pub read_connections: usize,
    /// Samples of the idle latency.
    #[arg(long, default_value_t = 100)]
    pub samples: u32,
    /// Events a second of the sustained stage.
    #[arg(long, default_value_t = 10_000.0)]
    pub rate: f64,
    /// Seconds of the sustained stage.
    #[arg(long, default_value_t = 30)]
    pub seconds: u64,
    /// Before anything is measured, store this many events of the same players (a grown installation). Every player has
    /// an entry in any case.
    #[arg(long, default_value_t = 0)]
    pub history: u64,
    /// Compare the CPU seconds of this build with those of the programs in FOLDER (another build's `target/release`),
    /// by turns on the same services, each build on a database of its own. Exit code 3: a regression; 4: not measured,
    /// the machine was too noisy.
    #[arg(long, value_name = "FOLDER")]
    pub against: Option<PathBuf>,
    /// Turns of --against: in each, both builds do each stage once.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(8..=100))]
    pub turns: u32,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// Why a run gave no figures.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// The processes under measurement.
    #[error(transparent)]
    Rig(#[from] rig::RigError),
    /// The load generator.
    #[error("the load generator: {0}")]
    Load(#[source] std::io::Error),
    /// Postgres.
    #[error("Postgres: {0}")]
    Postgres(#[from] sqlx::Error),
    /// Batches were refused: the figure would speak of another path.
    #[error("{0} batches were refused")]
    Refused(u64),
    /// What was acknowledged is not what is stored. This must never happen.
    #[error("not what was acknowledged is stored: {0}")]
    Lost(String),
    /// Somebody wants it to end.
    #[error("interrupted")]
    Interrupted,
    /// The tail of a run did not end.
    #[error("not within {1:?}: {0}")]
    NotSettled(&'static str, Duration),
    /// The queue.
    #[error("the queue: {0}")]
    Queue(String),
    /// A command of a build that is compared failed.
    #[error("{0}")]
    Command(String),
    /// A stage that is not there, or that --against does not know.
    #[error("there is no stage `{0}` here; see `scoreline bench --help`")]
    UnknownStage(String),
    /// The private services.
    #[error("private services: {0}")]
    Services(String),
}
