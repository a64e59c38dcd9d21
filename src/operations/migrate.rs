//! `scoreline migrate [status]`.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "the command's answer")]

use std::process::ExitCode;

use clap::{Args, Subcommand};
use secrecy::{ExposeSecret, SecretString};

use crate::store::migrations::{self, SchemaStatus};

/// Exit code of `status` while migrations are pending.
const PENDING: u8 = 4;

/// Bring the database's schema up to date.
#[derive(Args, Debug, Clone)]
pub struct MigrateConfig {
    /// Only tell what is pending (exit code 4 when anything is).
    #[command(subcommand)]
    pub only: Option<Only>,
    /// Postgres, 15 or newer. Not through a transaction-mode pooler: migrations hold a session lock.
    #[arg(long, env = "DATABASE_URL", hide_env_values = true, global = true, default_value = "")]
    pub database_url: SecretString,
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
    if config.database_url.expose_secret().is_empty() {
        eprintln!("error: set DATABASE_URL or --database-url");
        return ExitCode::from(2);
    }
    match work(&config).await {
        Ok(status) => report(&config, &status),
        Err(error) => {
            eprintln!("error: {}", crate::telemetry::redaction::redact(&error));
            ExitCode::FAILURE
        }
    }
}

async fn work(config: &MigrateConfig) -> Result<SchemaStatus, String> {
    let url = config.database_url.expose_secret();
    let mut connection = migrations::connect(url).await.map_err(|e| e.to_string())?;
    if config.only.is_none() {
        migrations::migrate(&mut connection).await.map_err(|e| e.to_string())?;
    }
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
