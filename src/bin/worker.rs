//! The `worker` process: runs queued jobs: writes events and score facts to Postgres.

use std::process::ExitCode;

use clap::Parser;
use scoreline::process::roles::worker::{WorkerSettings, run};

/// Runs queued jobs: writes events and score facts to Postgres.
///
/// Flags stand above environment variables, those above defaults.
#[derive(Parser)]
#[command(name = "worker", version)]
struct Command {
    #[command(flatten)]
    settings: WorkerSettings,
}

fn main() -> ExitCode {
    run(Command::parse().settings)
}
