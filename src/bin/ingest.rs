//! The `ingest` process: takes batches of events over HTTP and queues them.

use std::process::ExitCode;

use clap::Parser;
use scoreline::domain::clock::Clock;
use scoreline::ingest::role::{IngestRoleSettings, start};
use scoreline::operations::process;

/// Takes batches of events over HTTP and queues them.
///
/// Flags stand above environment variables, those above defaults.
#[derive(Parser)]
#[command(name = "ingest", version)]
struct Command {
    #[command(flatten)]
    settings: IngestRoleSettings,
}

fn main() -> ExitCode {
    let settings = Command::parse().settings;
    let (telemetry, shutdown) = (settings.role.telemetry.clone(), settings.role.shutdown.clone());
    process::run(&telemetry, &shutdown, |lifecycle| async move { start(settings, Clock::system(), &lifecycle).await })
}
