//! The command itself: what starts in which order, and stops in the reverse.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use secrecy::{ExposeSecret, SecretString};

use super::announce;
use super::demo::{self, Demo};
use super::endpoints::Endpoints;
use super::roles::{self, OperationsAddresses, RoleSettings, Running};
use crate::domain::clock::Clock;
use crate::process::commands::migrate::SchemaOwnerConfig;
use crate::process::settings::AllRolesConfig;
use crate::process::start::StartError;
use crate::runtime::clock;
use crate::runtime::lifecycle::Lifecycle;
use crate::runtime::limits::raise_open_files;
use crate::simulate::client::{Play, play};
use crate::stack::{Stack, StackError, StackOptions};
use crate::store::migrations;
use crate::telemetry::{logs, recorder};

/// What stands for "start a private one" where a URL would.
const PRIVATE: &str = "private";
/// Events a second that the simulated game makes, and its players.
const DEMO_RATE: f64 = 5.0;
const DEMO_PLAYERS: usize = 60;
/// Length of the admin token that is made when none is given (hexadecimal digits).
const ADMIN_TOKEN: &str = "admin.token";

/// Run everything in one process, with a demo game: private Postgres and Redis under a folder of their own, ingest,
/// worker, cron and api. Ctrl-C stops all of it.
#[derive(Args, Debug, Clone)]
pub struct UpConfig {
    /// The folder that holds the private services' data, keys and endpoints.json.
    #[arg(long, env = "SCORELINE_HOME", default_value = ".scoreline")]
    pub home: PathBuf,
    /// Do not play the simulated game.
    #[arg(long)]
    pub no_traffic: bool,
    /// Connections that the private Postgres allows.
    #[arg(long, env = "PRIVATE_MAX_CONNECTIONS", default_value_t = 100)]
    pub private_max_connections: u32,
    /// Operations listeners.
    #[command(flatten)]
    pub operations: OperationsAddresses,
    /// Who migrates.
    #[command(flatten)]
    pub owner: SchemaOwnerConfig,
    /// What the roles are given.
    #[command(flatten)]
    pub roles: AllRolesConfig,
}

/// Why `up` ended early.
#[derive(Debug, thiserror::Error)]
pub(super) enum UpError {
    #[error(transparent)]
    Stack(#[from] StackError),
    #[error(transparent)]
    Start(#[from] StartError),
    #[error("migrating: {0}")]
    Migrate(String),
    #[error("making the demo game: {0}")]
    Demo(String),
}

/// Changes defaults for `up`: no URL means a private service, and a person reads the log.
pub fn with_private_defaults(up: clap::Command) -> clap::Command {
    up.mut_arg("database_url", |a| a.required(false).default_value(PRIVATE))
        .mut_arg("redis_url", |a| a.default_value(PRIVATE))
        .mut_arg("log", |a| a.default_value("warn"))
        .mut_arg("log_format", |a| a.default_value("text"))
}

/// Runs until it is told to stop. The exit code is a role's (`process::entry_point::run`).
pub fn run(config: UpConfig) -> ExitCode {
    #[cfg(feature = "failpoints")]
    let _crash_points = fail::FailScenario::setup();
    let clock = clock::system();
    let _last_lines = match logs::init(&config.roles.telemetry, clock.clone()) {
        Ok(last_lines) => last_lines,
        Err(error) => return announce::failure(&error),
    };
    raise_open_files();
    match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => {
            let code = runtime.block_on(run_all(config, clock));
            runtime.shutdown_timeout(Duration::from_secs(1));
            code
        }
        Err(error) => announce::failure(&error),
    }
}

async fn run_all(config: UpConfig, clock: Clock) -> ExitCode {
    let lifecycle = Lifecycle::default();
    if let Err(error) = lifecycle.watch_signals() {
        return announce::failure(&error);
    }
    if let Err(error) = recorder::install() {
        return announce::failure(&error);
    }
    let private = |url: &SecretString| url.expose_secret() == PRIVATE;
    let options = StackOptions {
        home: config.home.clone(),
        postgres: private(&config.roles.postgres.database_url),
        redis: private(&config.roles.redis.redis_url),
        durable: true,
        max_connections: config.private_max_connections,
        replicas: false,
    };
    let stack = match Stack::start(&options).await {
        Ok(stack) => stack,
        Err(error) => return announce::failure(&error),
    };
    let grace = Duration::from_secs(config.roles.shutdown.shutdown_grace_seconds);
    let result = start(config, &stack, clock, &lifecycle).await;
    let code = match result {
        // Stopped while one role waits: the others may have begun.
        Ok(()) | Err(UpError::Start(StartError::Stopped(_))) => {
            let code = lifecycle.finished(grace).await.into();
            announce::stopping();
            code
        }
        Err(error) => {
            lifecycle.soft.cancel();
            lifecycle.finished(grace).await;
            announce::failure(&error)
        }
    };
    stack.home().remove(Endpoints::FILE);
    stack.stop().await;
    code
}

async fn start(mut config: UpConfig, stack: &Stack, clock: Clock, lifecycle: &Lifecycle) -> Result<(), UpError> {
    if let Some(postgres) = stack.postgres() {
        config.roles.postgres.database_url = SecretString::from(postgres.url.as_str());
        config.owner.database_migrate_url = Some(SecretString::from(postgres.owner_url.as_str()));
    }
    if let Some(url) = stack.redis_url() {
        config.roles.redis.redis_url = SecretString::from(url);
    }
    if config.roles.api.admin_token.is_none() {
        config.roles.api.admin_token = Some(SecretString::from(stack.home().secret(ADMIN_TOKEN)?));
    }
    let processes = &config.roles.postgres.database_url;
    let owner = config.owner.database_migrate_url.as_ref().unwrap_or(processes);
    migrations::update(owner.expose_secret(), processes.expose_secret())
        .await
        .map_err(|e| UpError::Migrate(e.to_string()))?;
    let demo = demo::prepare(&config.roles.postgres, &config.roles.redis, stack.home()).await.map_err(UpError::Demo)?;
    let settings = RoleSettings::of(&config);
    let running = roles::start_all(settings, &clock, lifecycle).await?;
    let endpoints = Endpoints::new(&config, &running, &demo);
    stack.home().write_private(Endpoints::FILE, endpoints.json().as_bytes())?;
    announce::running(&endpoints, stack.home().path());
    if !config.no_traffic {
        play_demo(&running, &demo, clock, lifecycle);
    }
    Ok(())
}

fn play_demo(running: &Running, demo: &Demo, clock: Clock, lifecycle: &Lifecycle) {
    let stop = lifecycle.soft.clone();
    let play_at = Play {
        ingest: running.ingest_url(),
        server_key: demo.server_key.clone(),
        players: DEMO_PLAYERS,
        rate: DEMO_RATE,
        // Another game each time, so that the boards go on moving.
        seed: clock.now().0.unsigned_abs(),
    };
    lifecycle.tasks.spawn(async move { play(play_at, clock, stop).await });
}
