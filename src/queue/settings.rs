//! How much the queue takes, and how long a worker may be silent.

use clap::Args;

/// The queue's admission and leases.
#[derive(Args, Debug, Clone)]
pub struct QueueConfig {
    /// Refuse new batches while Redis stores this many jobs (waiting, running, delayed or dead and not yet written to
    /// Postgres; 1 to 8,000,000); accept again below nine tenths of it.
    #[arg(long, env = "QUEUE_MAX_JOBS", default_value_t = 1_000_000, value_parser = queue_max_jobs())]
    pub queue_max_jobs: u64,
    /// Most percent of the queue (of its jobs, and of the memory that they may take) that one game may fill
    /// alone, where there are several games; 100: all of it. Several that send too much share what is there, and
    /// leave some free.
    #[arg(long, env = "QUEUE_GAME_SHARE", default_value_t = 50, value_parser = clap::value_parser!(u8).range(1..=100))]
    pub queue_game_share: u8,
    /// A worker whose heartbeat did not change for this long is dead (1 to 3,600).
    #[arg(long, env = "QUEUE_LEASE_SECONDS", default_value_t = 6, value_parser = clap::value_parser!(u64).range(1..=3_600))]
    pub queue_lease_seconds: u64,
}

/// A game's jobs are counted in the upper 23 bits of a signed number of 64.
fn queue_max_jobs() -> clap::builder::RangedU64ValueParser<u64> {
    clap::builder::RangedU64ValueParser::new().range(1..=8_000_000)
}
