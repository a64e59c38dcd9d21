//! The `worker` process: runs queued jobs: writes events and score facts to Postgres.

use std::process::ExitCode;

use clap::Parser;
use scoreline::domain::clock::Clock;
use scoreline::operations::process;
use scoreline::workers::role::{WorkerSettings, start};

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
    let settings = Command::parse().settings;
    let (telemetry, shutdown) = (settings.role.telemetry.clone(), settings.role.shutdown.clone());
    process::run(&telemetry, &shutdown, |lifecycle| async move { start(settings, Clock::system(), &lifecycle).await })
}
