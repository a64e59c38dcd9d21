//! The `cron` process: folds scores, publishes leaderboards and keeps the schedule; several may run.

use std::process::ExitCode;

use clap::Parser;
use scoreline::aggregator::role::{CronSettings, start};
use scoreline::domain::clock::Clock;
use scoreline::operations::process;

/// Folds scores, publishes leaderboards and keeps the schedule; several may run.
///
/// Flags stand above environment variables, those above defaults.
#[derive(Parser)]
#[command(name = "cron", version)]
struct Command {
    #[command(flatten)]
    settings: CronSettings,
}

fn main() -> ExitCode {
    let settings = Command::parse().settings;
    let (telemetry, shutdown) = (settings.role.telemetry.clone(), settings.role.shutdown.clone());
    process::run(&telemetry, &shutdown, |lifecycle| async move { start(settings, Clock::system(), &lifecycle).await })
}
