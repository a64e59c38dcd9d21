//! `scoreline services`: private Postgres and Redis around another command. The tests run in it.
#![allow(clippy::print_stderr, reason = "what the command has to say")]

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use rustix::process::{Pid, Signal, kill_process};

use super::announce;
use crate::runtime::lifecycle::Lifecycle;
use crate::stack::{Stack, StackOptions};

/// Start private Postgres and Redis, run a command with `DATABASE_URL`, `DATABASE_MIGRATE_URL` (the schema's owner),
/// `REDIS_URL` and `SCORELINE_TEST_DATABASE_URL` (a superuser, for tests) set to them, and stop them when it ends.
#[derive(Args, Debug, Clone)]
pub struct ServicesConfig {
    /// The folder that holds their data.
    #[arg(long, env = "SCORELINE_HOME", default_value = ".scoreline")]
    pub home: PathBuf,
    /// Force nothing to disk: for tests, whose data nobody will miss.
    #[arg(long)]
    pub scratch: bool,
    /// Start no Redis.
    #[arg(long)]
    pub no_redis: bool,
    /// Connections that Postgres allows.
    #[arg(long, default_value_t = 100)]
    pub max_connections: u32,
    /// The command with its arguments.
    #[arg(trailing_var_arg = true, required = true)]
    pub command: Vec<String>,
}

/// Runs the command; its exit code is the answer.
pub async fn run(config: ServicesConfig) -> ExitCode {
    let lifecycle = Lifecycle::default();
    if let Err(error) = lifecycle.watch_signals() {
        return announce::failure(&error);
    }
    let options = StackOptions {
        home: config.home,
        postgres: true,
        redis: !config.no_redis,
        durable: !config.scratch,
        max_connections: config.max_connections,
        replicas: false,
    };
    let stack = match Stack::start(&options).await {
        Ok(stack) => stack,
        Err(error) => return announce::failure(&error),
    };
    let code = run_command(&config.command, &stack, &lifecycle).await;
    stack.stop().await;
    code
}

async fn run_command(command: &[String], stack: &Stack, lifecycle: &Lifecycle) -> ExitCode {
    let Some((program, arguments)) = command.split_first() else { return ExitCode::FAILURE };
    let mut child = tokio::process::Command::new(program);
    child.args(arguments).kill_on_drop(true);
    if let Some(postgres) = stack.postgres() {
        child.env("DATABASE_URL", &postgres.url).env("DATABASE_MIGRATE_URL", &postgres.owner_url);
        child.env("SCORELINE_TEST_DATABASE_URL", &postgres.admin_url);
    }
    if let Some(url) = stack.redis_url() {
        child.env("REDIS_URL", url);
    }
    let mut child = match child.spawn() {
        Ok(child) => child,
        Err(error) => {
            eprintln!("error: cannot run {program}: {error}");
            return ExitCode::FAILURE;
        }
    };
    let status = tokio::select! {
        status = child.wait() => status,
        () = lifecycle.soft.cancelled() => {
            // At a terminal Ctrl-C reached it too; it ends once either way.
            if let Some(pid) = child.id().and_then(|id| Pid::from_raw(id.cast_signed())) {
                let _ = kill_process(pid, Signal::TERM);
            }
            tokio::select! {
                status = child.wait() => status,
                () = lifecycle.hard.cancelled() => return ExitCode::FAILURE,
            }
        }
    };
    match status {
        Ok(status) => ExitCode::from(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1)),
        Err(_) => ExitCode::FAILURE,
    }
}
