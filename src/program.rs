//! The `scoreline` program: the operator's command line, in one list.
//!
//! It is here and not in the binary, which would compile every command anew.

use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches, Parser};

use crate::process::commands::{config, migrate};
use crate::runtime::limits::leave_no_core;
use crate::{bench, chaos, cli, simulate, up};

/// A self-hosted event pipeline for games: batches in, exactly-once leaderboards out.
///
/// Every command reads the same settings as the processes: flags stand above environment variables, those above
/// defaults.
#[derive(Parser)]
#[command(name = "scoreline", version)]
enum Command {
    Up(Box<up::UpConfig>),
    Services(up::ServicesConfig),
    Migrate(migrate::MigrateConfig),
    Config(Box<config::SettingsConfig>),
    Simulate(simulate::command::SimulateConfig),
    /// Measure every stage beside its limit, and the whole path with the CPU of every process.
    Bench(bench::Options),
    /// Break private services and processes in every way that must be survived, and compare what is left.
    ///
    /// Exit code 1 when a promise was broken. The same seed does the same things.
    Chaos(chaos::Options),
    #[command(hide = true)]
    BenchLimit(bench::limit_server::LimitArgs),
    #[command(flatten)]
    Operate(cli::Command),
}

/// Parses the command line and runs what it asks for.
pub fn main() -> ExitCode {
    leave_no_core();
    let described = Command::command().mut_subcommand("up", up::with_private_defaults);
    let command = match Command::from_arg_matches(&described.get_matches()) {
        Ok(command) => command,
        Err(error) => error.exit(),
    };
    match command {
        Command::Up(config) => up::run(*config),
        Command::Services(config) => block_on(up::run_services(config)),
        Command::Migrate(config) => block_on(migrate::run(config)),
        Command::Config(settings) => block_on(config::run(*settings)),
        Command::Simulate(config) => block_on(simulate::command::run(config)),
        Command::Bench(options) => block_on(bench::command::run(options)),
        Command::Chaos(options) => block_on(chaos::command::run(options)),
        Command::BenchLimit(options) => block_on(bench::limit_server::run(options)),
        Command::Operate(command) => block_on(cli::run(command)),
    }
}

fn block_on(command: impl Future<Output = ExitCode>) -> ExitCode {
    match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime.block_on(command),
        Err(_) => ExitCode::from(2),
    }
}
