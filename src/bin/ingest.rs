//! The `ingest` process: takes batches of events over HTTP and queues them.

use std::process::ExitCode;

use clap::Parser;
use scoreline::process::roles::ingest::{IngestRoleSettings, run};

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
    run(Command::parse().settings)
}
