//! A role as a process of its own: logs, signals, start, wait, exit code.

use std::process::ExitCode;
use std::time::Duration;

use futures_util::future::BoxFuture;

use super::settings::RoleConfig;
use super::start::{RunningRole, StartError};
use crate::domain::clock::Clock;
use crate::runtime::clock;
use crate::runtime::lifecycle::Lifecycle;
use crate::runtime::limits::{leave_no_core, raise_open_files};
use crate::telemetry::{logs, recorder};

/// Exit code when a role did not start.
const NOT_STARTED: u8 = 2;

/// How a role starts.
pub type Start = Box<dyn FnOnce(Clock, Lifecycle) -> BoxFuture<'static, Result<RunningRole, StartError>>>;

/// Runs one role until it is told to stop, and tells the truth with the exit code: 0 stopped cleanly, 1 an essential
/// task died, 2 did not start, 3 work in hand was cut off.
///
/// Roles hand over a boxed start from within this library: a generic one would have each binary compile its role anew.
pub fn run(config: &RoleConfig, start: Start) -> ExitCode {
    leave_no_core();
    #[cfg(feature = "failpoints")]
    let _crash_points = fail::FailScenario::setup();
    let clock = clock::system();
    let _last_lines = match logs::init(&config.telemetry, clock.clone()) {
        Ok(last_lines) => last_lines,
        Err(error) => return complain(&error),
    };
    raise_open_files();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return complain(&error),
    };
    let grace = Duration::from_secs(config.shutdown.shutdown_grace_seconds);
    let code = runtime.block_on(run_role(grace, clock, start));
    runtime.shutdown_timeout(Duration::from_secs(1));
    code
}

async fn run_role(grace: Duration, clock: Clock, start: Start) -> ExitCode {
    let lifecycle = Lifecycle::default();
    if let Err(error) = lifecycle.watch_signals() {
        return complain(&error);
    }
    // Before any part takes a handle of a metric.
    if let Err(error) = recorder::install() {
        return complain(&error);
    }
    match start(clock, lifecycle.clone()).await {
        Ok(running) => {
            let address = running.address.map(|a| a.to_string());
            tracing::info!(role = running.role, address, operations = %running.operations, "running");
        }
        Err(StartError::Stopped(waiting_for)) => {
            tracing::info!(waiting_for, "stopped before the start was finished");
            // What it has begun ends as ever, and signs off.
        }
        Err(error) => {
            let code = complain(&error);
            // Likewise.
            lifecycle.soft.cancel();
            lifecycle.finished(grace).await;
            return code;
        }
    }
    let ended = lifecycle.finished(grace).await;
    tracing::info!(?ended, "stopped");
    ended.into()
}

fn complain(error: &dyn std::error::Error) -> ExitCode {
    logs::say(&format!("error: {error}"));
    ExitCode::from(NOT_STARTED)
}
