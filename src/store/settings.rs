//! Where Postgres is, and how far back the partitions of events must reach.

use clap::{Args, FromArgMatches};
use secrecy::SecretString;

/// Where Postgres is.
#[derive(Args, Debug, Clone)]
pub struct PostgresConfig {
    /// Postgres, 15 or newer.
    #[arg(long, env = "DATABASE_URL", hide_env_values = true)]
    pub database_url: SecretString,
    /// A replica for reading the final standings of closed periods; the primary where absent.
    #[arg(long, env = "DATABASE_READ_URL", hide_env_values = true)]
    pub database_read_url: Option<SecretString>,
    /// Most connections of this process (worker 4, cron 4, api 10).
    #[arg(long, env = "DB_POOL_MAX")]
    pub db_pool_max: Option<u32>,
    /// Connections kept open at least.
    #[arg(long, env = "DB_POOL_MIN", default_value_t = 1)]
    pub db_pool_min: u32,
    /// Close a connection that was idle this long.
    #[arg(long, env = "DB_POOL_IDLE_SECONDS", default_value_t = 30)]
    pub db_pool_idle_seconds: u64,
    /// Give up waiting for a connection after this long.
    #[arg(long, env = "DB_CONNECT_SECONDS", default_value_t = 5)]
    pub db_connect_seconds: u64,
    /// Longest statement.
    #[arg(long, env = "DB_STATEMENT_SECONDS", default_value_t = 10)]
    pub db_statement_seconds: u64,
    /// Prepared statements kept per connection; 0 behind a transaction-mode pooler that does not track them.
    #[arg(long, env = "DB_STATEMENT_CACHE", default_value_t = 100)]
    pub db_statement_cache: usize,
    /// Send time limits as start-up options of each connection. Turn it off behind a pooler that refuses them, and
    /// set them on the role instead (`ALTER ROLE … SET statement_timeout = …`).
    #[arg(long, env = "DB_SESSION_SETTINGS", default_value_t = true, action = clap::ArgAction::Set)]
    pub db_session_settings: bool,
}

impl PostgresConfig {
    /// The Postgres at `url`, with the other settings from the environment or their defaults.
    ///
    /// # Errors
    /// A setting in the environment that does not parse.
    pub fn at(url: &str) -> Result<Self, clap::Error> {
        let command = Self::augment_args(clap::Command::new("postgres"));
        Self::from_arg_matches(&command.try_get_matches_from(["postgres", "--database-url", url])?)
    }
}

/// How old accepted events may be, for roles that do not accept any: partitions must exist that far back.
#[derive(Args, Debug, Clone)]
pub struct EventAgeConfig {
    /// How old an event may be when ingest accepts it; the same as ingest's.
    #[arg(long, env = "MAX_EVENT_AGE_SECONDS", default_value_t = 7 * 86_400)]
    pub max_event_age_seconds: u32,
}
