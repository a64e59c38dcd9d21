//! The `api` process: serves leaderboards to players, and administration to studios and operators.

use std::process::ExitCode;

use clap::Parser;
use scoreline::api::role::{ApiRoleSettings, start};
use scoreline::domain::clock::Clock;
use scoreline::operations::process;

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
    let settings = Command::parse().settings;
    let (telemetry, shutdown) = (settings.role.telemetry.clone(), settings.role.shutdown.clone());
    process::run(&telemetry, &shutdown, |lifecycle| async move { start(settings, Clock::system(), &lifecycle).await })
}
