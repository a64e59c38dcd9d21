//! The `cron` process: folds scores, publishes leaderboards and keeps the schedule; several may run.

use std::process::ExitCode;

use clap::Parser;
use scoreline::process::roles::cron::{CronSettings, run};

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
    run(Command::parse().settings)
}
