//! How much a worker has in hand, and how it writes.

use clap::Args;

use crate::queue::worker::MOST_JOBS;

/// The worker's writes.
#[derive(Args, Debug, Clone)]
pub struct WorkerConfig {
    /// Jobs in hand at most (1 to 1,000).
    #[arg(long, env = "WORKER_MAX_JOBS", default_value_t = MOST_JOBS, value_parser = worker_max_jobs())]
    pub worker_max_jobs: usize,
    /// Database transactions at once.
    #[arg(long, env = "WORKER_WRITERS", default_value_t = 2)]
    pub worker_writers: usize,
    /// Most events of one transaction.
    #[arg(long, env = "WORKER_GROUP_EVENTS", default_value_t = 5_000)]
    pub worker_group_events: usize,
}

fn worker_max_jobs() -> clap::builder::RangedU64ValueParser<usize> {
    clap::builder::RangedU64ValueParser::new().range(1..=MOST_JOBS as u64)
}
