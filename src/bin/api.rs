//! The `api` process: serves leaderboards to players, and administration to studios and operators.

use std::process::ExitCode;

use clap::Parser;
use scoreline::process::roles::api::{ApiRoleSettings, run};

/// Serves leaderboards to players, and administration to studios and operators.
///
/// Flags stand above environment variables, those above defaults.
#[derive(Parser)]
#[command(name = "api", version)]
struct Command {
    #[command(flatten)]
    settings: ApiRoleSettings,
}

fn main() -> ExitCode {
    run(Command::parse().settings)
}
