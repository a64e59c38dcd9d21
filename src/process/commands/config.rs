//! `scoreline config`: what is in force, with secrets masked; refuses what is unsafe.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "the command's answer")]

use std::process::ExitCode;

use clap::{ArgMatches, Args, CommandFactory, FromArgMatches, Parser};
use secrecy::{ExposeSecret, SecretString};

use super::migrate::SchemaOwnerConfig;
use crate::process::settings::{AllRolesConfig, OperationsConfig};
use crate::queue::server;
use crate::redis_connection::settings::RedisUse;
use crate::redis_connection::{Connection, Timeouts};
use crate::store::pool::{Pool, default_max};
use crate::store::{StoreError, migrations, processes};
use crate::telemetry::redaction::redact;

/// Shortest admin token.
const MIN_TOKEN: usize = 24;

/// Print the settings in force, and refuse unsafe ones.
///
/// Connects to Postgres and Redis to look for pools larger than the server allows and for a Redis that evicts keys or
/// has no memory limit.
#[derive(Args, Debug, Clone)]
pub struct SettingsConfig {
    /// Look at the settings only; connect to nothing.
    #[arg(long)]
    pub offline: bool,
    /// Answer in JSON.
    #[arg(long)]
    pub json: bool,
    /// All settings of all processes.
    #[command(flatten)]
    pub all: AllSettings,
}

/// All settings of all processes.
#[derive(Args, Debug, Clone)]
pub struct AllSettings {
    /// Operations listener.
    #[command(flatten)]
    pub operations: OperationsConfig,
    /// Who migrates.
    #[command(flatten)]
    pub owner: SchemaOwnerConfig,
    /// Everything else.
    #[command(flatten)]
    pub roles: AllRolesConfig,
}

#[derive(Parser)]
struct Parsed {
    #[command(flatten)]
    _all: AllSettings,
}

/// One setting in force.
#[derive(Debug, serde::Serialize)]
struct Setting {
    name: String,
    value: String,
    from: &'static str,
}

/// Prints and checks.
pub async fn run(config: SettingsConfig) -> ExitCode {
    let settings = in_force();
    let (mut problems, mut warnings) = (unsafe_settings(&config.all.roles), Vec::new());
    if !config.offline {
        problems.extend(unsafe_servers(&config.all.roles, &mut warnings).await);
    }
    // What servers and libraries say may quote a URL.
    let problems: Vec<String> = problems.iter().map(|problem| redact(problem).into_owned()).collect();
    if config.json {
        println!("{}", serde_json::json!({ "settings": settings, "problems": problems, "warnings": warnings }));
    } else {
        for Setting { name, value, from } in &settings {
            println!("{name}={value}  # {from}");
        }
        for problem in &problems {
            eprintln!("unsafe: {problem}");
        }
        for warning in &warnings {
            eprintln!("warning: {warning}");
        }
    }
    if problems.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Reads the environment and the command line once more, for where each value came from.
fn in_force() -> Vec<Setting> {
    let command = Parsed::command();

    let arguments: Vec<_> =
        std::env::args_os().filter(|a| a != "config" && a != "--json" && a != "--offline").collect();
    let Ok(found) = command.clone().try_get_matches_from(arguments) else { return Vec::new() };
    let mut settings: Vec<Setting> = command.get_arguments().filter_map(|a| setting(a, &found)).collect();
    settings.sort_by(|a, b| a.name.cmp(&b.name));
    settings
}

fn setting(argument: &clap::Arg, found: &ArgMatches) -> Option<Setting> {
    use clap::parser::ValueSource;
    let id = argument.get_id().as_str();
    let name = argument.get_env()?.to_string_lossy().into_owned();
    let from = match found.value_source(id) {
        Some(ValueSource::CommandLine) => "flag",
        Some(ValueSource::EnvVariable) => "environment",
        Some(_) => "default",
        None => "not set",
    };
    let raw: Vec<_> = found.get_raw(id).into_iter().flatten().map(|v| v.to_string_lossy().into_owned()).collect();
    let value = raw.join(",");
    let value = if argument.is_hide_env_values_set() { mask(&value) } else { value };
    Some(Setting { name, value, from })
}

/// A URL loses its password, any other secret everything.
fn mask(value: &str) -> String {
    if value.contains("://") {
        redact(value).into_owned()
    } else if value.is_empty() {
        String::new()
    } else {
        "***".to_owned()
    }
}

fn unsafe_settings(all: &AllRolesConfig) -> Vec<String> {
    let mut problems = Vec::new();
    if let Some(token) = &all.api.admin_token
        && weak(token)
    {
        problems.push(format!("ADMIN_TOKEN is too easy to guess: use at least {MIN_TOKEN} random characters"));
    }
    let retention = u64::from(all.retention.retention_days) * 86_400;
    if u64::from(all.ingest.max_event_age_seconds) + 86_400 > retention {
        problems
            .push("RETENTION_DAYS is shorter than MAX_EVENT_AGE_SECONDS: accepted events would be dropped".to_owned());
    }
    if all.worker.worker_writers > all.postgres.db_pool_max.unwrap_or(default_max("worker")) as usize {
        problems.push("WORKER_WRITERS is larger than the worker's DB_POOL_MAX".to_owned());
    }
    problems
}

/// Short, or of few different characters.
fn weak(token: &SecretString) -> bool {
    let token = token.expose_secret();
    let different: std::collections::HashSet<char> = token.chars().collect();
    token.len() < MIN_TOKEN || different.len() < 8
}

/// Asks the servers. What makes them unfit; and what should be mended goes to `warnings`.
async fn unsafe_servers(all: &AllRolesConfig, warnings: &mut Vec<String>) -> Vec<String> {
    let mut problems = Vec::new();
    match Pool::lazy(&all.postgres, "config") {
        Err(error) => problems.push(format!("DATABASE_URL: {error}")),
        Ok(pool) => {
            let wanted = all.postgres.db_pool_max.unwrap_or(default_max("api"));
            match unfit_database(&pool, wanted).await {
                Err(error) => problems.push(format!("Postgres cannot be reached: {error}")),
                Ok(unfit) => problems.extend(unfit),
            }
        }
    }
    let mut uses = vec![RedisUse::Queue, RedisUse::Ranking];
    // One server is asked once, for what demands more.
    uses.dedup_by_key(|use_| all.redis.url_of(*use_).to_owned());
    for use_ in uses {
        match ask_redis(all.redis.url_of(use_), use_).await {
            Ok(warning) => warnings.extend(warning),
            Err(problem) => problems.push(problem),
        }
    }
    problems
}

/// Looks at the Redis of one use. What should be mended, if anything should; or what makes it unfit.
async fn ask_redis(url: &str, use_: RedisUse) -> Result<Option<String>, String> {
    let name = use_.name();
    let connection = Connection::open(url, Timeouts::default())
        .map_err(|error| format!("the URL of {name} is unusable: {error}"))?;
    let report = server::inspect(&connection).await.map_err(|error| format!("{name} cannot be reached: {error}"))?;
    let unfit = if use_ == RedisUse::Queue { report.unsafe_for_queue() } else { report.unsafe_for_ranking() };
    match unfit {
        Some(problem) => Err(format!("{name}: {problem}")),
        None => Ok(report.warning().map(|warning| format!("{name}: {warning}"))),
    }
}

/// What makes a database that answers unfit: its encoding, that it takes no writes, that it allows fewer connections
/// than a pool of `wanted`.
async fn unfit_database(pool: &Pool, wanted: u32) -> Result<Vec<String>, StoreError> {
    let mut connection = pool.acquire().await?;
    if let Err(encoding) = migrations::check_encoding(&mut connection).await? {
        return Ok(vec![encoding]);
    }
    let mut problems = Vec::new();
    let state = processes::ask(&mut *connection, &[]).await?;
    if state.in_recovery || state.read_only {
        problems.push("Postgres takes no writes: it is read-only or a standby".to_owned());
    }
    let budget = processes::connection_budget(&mut *connection).await?;
    if i64::from(wanted) > budget.allowed {
        problems.push(format!("DB_POOL_MAX is {wanted}, the server allows {}", budget.allowed));
    }
    Ok(problems)
}

/// Checks that the struct and the command line agree (used by the documentation test).
pub fn all_settings_command() -> clap::Command {
    Parsed::command()
}

impl AllSettings {
    /// Parses settings as tests give them.
    ///
    /// # Errors
    /// What clap says.
    pub fn parse_from<I: IntoIterator<Item = &'static str>>(arguments: I) -> Result<Self, clap::Error> {
        let found = Parsed::command().try_get_matches_from(arguments)?;
        Self::from_arg_matches(&found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unsafe_settings_are_named() {
        let given = |more: &[&'static str]| {
            let all = ["x", "--database-url", "postgres://localhost/x"];
            unsafe_settings(&AllSettings::parse_from(all.into_iter().chain(more.iter().copied())).unwrap().roles)
        };
        assert!(given(&[]).is_empty());
        assert!(given(&["--admin-token", "short"])[0].contains("ADMIN_TOKEN"));
        assert!(given(&["--admin-token", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"])[0].contains("ADMIN_TOKEN"));
        assert!(given(&["--admin-token", "hK2-9dkQ_77abXyzPq0LmnR4tuV"]).is_empty());
        assert!(given(&["--retention-days", "7"])[0].contains("RETENTION_DAYS"));
        assert!(given(&["--worker-writers", "9"])[0].contains("WORKER_WRITERS"));
    }

    #[test]
    fn secrets_are_masked() {
        assert_eq!(mask("postgres://u:hunter2@db/x"), "postgres://u:***@db/x");
        assert_eq!(mask("hunter2"), "***");
    }
}
