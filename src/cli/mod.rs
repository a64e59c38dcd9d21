//! The operator's commands on games, keys, leaderboards, queues and dead letters. They work on Postgres and Redis
//! directly, under the same names of settings as the processes, so they help when no process runs.
//!
//! Exit codes: 0 done; 1 a dependency failed, or some of several leaderboards did; 2 wrong usage or input; 3 not found;
//! 4 refused (a conflict, or an audit found differences). With `--json` the answer, or the error, is one JSON value.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "the commands' answers")]

mod audit;
mod boards;
mod games;
mod leaderboards;
pub mod progress;
mod queues;
mod reach;
mod table;

use std::process::ExitCode;

use clap::{Args, Subcommand};

use self::reach::{Answer, Failure, Reach};

/// A command's own arguments, and where Postgres and Redis are.
#[derive(Args, Debug, Clone)]
pub struct With<T: Args> {
    #[command(flatten)]
    what: T,
    #[command(flatten)]
    reach: Reach,
}

/// Commands of operators.
#[derive(Subcommand, Debug, Clone)]
pub enum Command {
    /// Games (tenants).
    #[command(subcommand)]
    Game(games::GameCommand),
    /// Keys of a game.
    #[command(subcommand)]
    Key(games::KeyCommand),
    /// Leaderboards of a game.
    #[command(subcommand)]
    Leaderboard(leaderboards::LeaderboardCommand),
    /// The job queue.
    #[command(subcommand)]
    Queue(queues::QueueCommand),
    /// Jobs that will not be retried by themselves.
    #[command(subcommand)]
    DeadLetters(queues::DeadLettersCommand),
    /// Write leaderboards to Redis anew from the entries in Postgres.
    Rebuild(Box<With<boards::Which>>),
    /// Compute leaderboards anew from the stored events, beside the live ones, and swap them in.
    Recompute(Box<With<boards::Recompute>>),
    /// Compare leaderboards in Redis with Postgres, and those with the stored events. Exit code 4 when something
    /// differed; what differed in Redis is repaired.
    Audit(Box<With<audit::Audit>>),
    /// The months of the events table.
    Partitions(Box<With<boards::Nothing>>),
    /// Who changed what.
    AuditLog(Box<With<boards::AuditLog>>),
}

/// Runs a command and prints its answer.
pub async fn run(command: Command) -> ExitCode {
    let (json, outcome) = match command {
        Command::Game(command) => games::run_game(command).await,
        Command::Key(command) => games::run_key(command).await,
        Command::Leaderboard(command) => leaderboards::run(command).await,
        Command::Queue(command) => queues::run_queue(command).await,
        Command::DeadLetters(command) => queues::run_dead_letters(command).await,
        Command::Rebuild(with) => (with.reach.json, boards::rebuild(*with).await),
        Command::Recompute(with) => (with.reach.json, boards::recompute(*with).await),
        Command::Audit(with) => (with.reach.json, audit::audit(*with).await),
        Command::Partitions(with) => (with.reach.json, boards::partitions(*with).await),
        Command::AuditLog(with) => (with.reach.json, boards::audit_log(*with).await),
    };
    match outcome {
        Ok(Answer { json: value, text, exit_code }) => {
            if json {
                println!("{value}")
            } else {
                println!("{}", text.trim_end())
            }
            ExitCode::from(exit_code)
        }
        Err(failure) => report(json, &failure),
    }
}

fn report(json: bool, failure: &Failure) -> ExitCode {
    let message = failure.to_string();
    let message = crate::telemetry::redaction::redact(&message);
    if json {
        println!("{}", serde_json::json!({ "error": message, "code": failure.code() }));
    } else {
        eprintln!("error: {message}");
    }
    ExitCode::from(failure.exit_code())
}
