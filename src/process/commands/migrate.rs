//! `scoreline migrate [status]`.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "the command's answer")]

use std::process::ExitCode;

use clap::{Args, Subcommand};
use secrecy::{ExposeSecret, SecretString};

use crate::store::migrations::{self, SchemaStatus};

/// Exit code of `status` while migrations are pending.
const PENDING: u8 = 4;

/// Who owns the schema.
#[derive(Args, Debug, Clone, Default)]
pub struct SchemaOwnerConfig {
    /// The same database as `DATABASE_URL`, as the role that owns the schema: for `migrate` and `up` only, never for a
    /// process that serves. `DATABASE_URL` where absent. Not through a transaction-mode pooler: migrations hold
    /// a session lock.
    #[arg(long, env = "DATABASE_MIGRATE_URL", hide_env_values = true, global = true)]
    pub database_migrate_url: Option<SecretString>,
}

/// Bring the database's schema up to date.
///
/// Where DATABASE_MIGRATE_URL is another role than DATABASE_URL, gives the latter the rights that processes need.
#[derive(Args, Debug, Clone)]
pub struct MigrateConfig {
    /// Only tell what is pending (exit code 4 when anything is).
    #[command(subcommand)]
    pub only: Option<Only>,
    /// Postgres, 15 or newer, as the role that processes run as.
    #[arg(long, env = "DATABASE_URL", hide_env_values = true, global = true, default_value = "")]
    pub database_url: SecretString,
    /// Who migrates.
    #[command(flatten)]
    pub owner: SchemaOwnerConfig,
    /// Answer in JSON.
    #[arg(long, global = true)]
    pub json: bool,
}

/// What to do instead of migrating.
#[derive(Subcommand, Debug, Clone)]
pub enum Only {
    /// Tell which migrations were applied and which are pending.
    Status,
}

/// Migrates, or tells the status.
pub async fn run(config: MigrateConfig) -> ExitCode {
    if config.urls().0.is_empty() {
        eprintln!("error: set DATABASE_URL or --database-url");
        return ExitCode::from(2);
    }
    // Whoever waits for this command wants to know what it waits for.
    let lines = tracing_subscriber::fmt().with_writer(std::io::stderr).with_env_filter("off,scoreline=info");
    let _ = lines.with_ansi(false).try_init();
    match work(&config).await {
        Ok(status) => report(&config, &status),
        Err(error) => {
            eprintln!("error: {}", crate::telemetry::redaction::redact(&error));
            ExitCode::FAILURE
        }
    }
}

impl MigrateConfig {
    /// Whose URL migrates, and whose the processes have; the same where one of them is not set.
    fn urls(&self) -> (&str, &str) {
        let processes = self.database_url.expose_secret();
        let owner = self.owner.database_migrate_url.as_ref().map_or("", |url| url.expose_secret());
        fn or<'a>(url: &'a str, other: &'a str) -> &'a str {
            if url.is_empty() { other } else { url }
        }
        (or(owner, processes), or(processes, owner))
    }
}

async fn work(config: &MigrateConfig) -> Result<SchemaStatus, String> {
    let (owner, processes) = config.urls();
    if config.only.is_none() {
        return migrations::update(owner, processes).await.map_err(|e| e.to_string());
    }
    let mut connection = migrations::connect(owner).await.map_err(|e| e.to_string())?;
    migrations::status(&mut connection).await.map_err(|e| e.to_string())
}

fn report(config: &MigrateConfig, status: &SchemaStatus) -> ExitCode {
    if config.json {
        println!("{}", serde_json::json!(status));
    } else {
        let applied = status.applied.map_or_else(|| "none".to_owned(), |v| v.to_string());
        println!("schema {applied}, needed {}", status.needed);
        for pending in &status.pending {
            println!("pending: {} {}", pending.version, pending.description);
        }
    }
    if status.pending.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(PENDING) }
}
