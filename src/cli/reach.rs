//! Where Postgres and Redis are, and how a command ends.

use std::fmt::Display;

use clap::Args;
use serde_json::{Value, json};

use crate::directory::publication::DirectoryError;
pub use crate::queue::keys::QUEUE_NAME as QUEUE;
use crate::queue::{Queue, QueueError};
use crate::ranking::{Ranking, RankingError};
use crate::redis_connection::settings::{RedisConfig, RedisUse};
use crate::redis_connection::{Connection, Timeouts};
use crate::services::directory_publication::publish_if_stale;
use crate::services::leaderboards::EditError;
use crate::services::queues::QueueChangeError;
use crate::store::game_bounds::OverBound;
use crate::store::games::{self, Game};
use crate::store::leaderboards::ApplyError;
use crate::store::settings::PostgresConfig;
use crate::store::{Pool, StoreError};
use crate::telemetry::redaction::redact;

/// Where Postgres and Redis are.
#[derive(Args, Debug, Clone)]
pub struct Reach {
    /// Answer in JSON.
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    postgres: PostgresConfig,
    #[command(flatten)]
    redis: RedisConfig,
}

impl Reach {
    /// Connections to Postgres, made on first use.
    pub fn pool(&self) -> Result<Pool, Failure> {
        Ok(Pool::lazy(&self.postgres, "cli")?)
    }

    /// Leaderboards in Redis.
    pub fn ranking(&self) -> Result<Ranking, Failure> {
        Ok(Ranking::open(self.redis.url_of(RedisUse::Ranking), &self.redis.redis_prefix)?)
    }

    /// The job queue.
    pub fn queue(&self) -> Result<Queue, Failure> {
        let url = self.redis.url_of(RedisUse::Queue);
        Ok(Queue::open(url, &self.redis.redis_prefix, QUEUE, Timeouts::default())?)
    }

    /// Publishes the directory after a change. Should Redis be away, the change stands and cron publishes it.
    pub async fn directory_changed(&self, pool: &Pool) {
        let published = match Connection::open(self.redis.url_of(RedisUse::Cache), Timeouts::default()) {
            Ok(mut connection) => publish_if_stale(pool, &mut connection, &self.redis.redis_prefix).await,
            Err(error) => Err(DirectoryError::from(error).into()),
        };
        if let Err(error) = published {
            eprintln!("warning: changed, but not published yet (cron will): {error}");
        }
    }

    /// A game by its slug.
    pub async fn game(&self, pool: &Pool, slug: &str) -> Result<Game, Failure> {
        games::by_slug(pool, slug).await?.ok_or_else(|| Failure::NotFound(format!("there is no game '{slug}'")))
    }
}

/// What a command says.
#[derive(Debug)]
pub struct Answer {
    /// For programs.
    pub json: Value,
    /// For people.
    pub text: String,
    /// The process's exit code.
    pub exit_code: u8,
}

impl Answer {
    /// An answer in both forms.
    pub fn new(json: &impl serde::Serialize, text: impl Into<String>) -> Self {
        Self { json: serde_json::to_value(json).unwrap_or_default(), text: text.into(), exit_code: 0 }
    }

    /// An answer about several leaderboards, some of which failed: exit code 1.
    pub fn unless(self, failed: &Failed) -> Self {
        let Self { mut json, mut text, exit_code } = self;
        let each = |(name, why): &(String, String)| json!({ "leaderboard": name, "error": redact(why) });
        json["failed"] = failed.0.iter().map(each).collect();
        for (name, why) in &failed.0 {
            text.push_str(&format!("\n{name}: {}", redact(why)));
        }
        Self { json, text, exit_code: if failed.0.is_empty() { exit_code } else { 1 } }
    }

    /// An answer to "is it so?" that is no: exit code 4.
    pub fn not_as_it_should_be(self) -> Self {
        Self { exit_code: 4, ..self }
    }
}

/// Leaderboards of several that a command could not do, and why: one that fails keeps no other from its turn.
#[derive(Debug, Default)]
pub struct Failed(Vec<(String, String)>, u32);

/// Failures in a row after which Postgres or Redis is taken to be away.
const AWAY: u32 = 10;

impl Failed {
    /// Whether all that was tried could be done.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Notes how it went with one. When so many in a row have failed that the others would as well, the last is the
    /// command's failure.
    pub fn or<T, E: Display>(&mut self, name: &str, done: Result<T, E>) -> Result<Option<T>, Failure> {
        match done {
            Ok(done) => {
                self.1 = 0;
                Ok(Some(done))
            }
            Err(error) => {
                self.1 += 1;
                if self.1 >= AWAY {
                    return Err(Failure::Failed(format!("{name}: {error} (as those before it; the rest was left)")));
                }
                self.0.push((name.to_owned(), error.to_string()));
                Ok(None)
            }
        }
    }
}

/// Why a command did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The input is unusable.
    #[error("{0}")]
    Input(String),
    /// No such thing.
    #[error("{0}")]
    NotFound(String),
    /// Possible, but not so.
    #[error("{0}")]
    Refused(String),
    /// Something else went wrong on the way.
    #[error("{0}")]
    Failed(String),
    /// Postgres.
    #[error("Postgres: {0}")]
    Postgres(#[from] StoreError),
    /// The queue's Redis.
    #[error(transparent)]
    Queue(#[from] QueueError),
    /// The leaderboards' Redis.
    #[error(transparent)]
    Ranking(#[from] RankingError),
}

impl From<QueueChangeError> for Failure {
    fn from(error: QueueChangeError) -> Self {
        match error {
            QueueChangeError::Queue(error) => error.into(),
            QueueChangeError::Postgres(error) => error.into(),
        }
    }
}

impl From<OverBound> for Failure {
    fn from(error: OverBound) -> Self {
        match error {
            OverBound::Postgres(error) => error.into(),
            other => Self::Refused(other.to_string()),
        }
    }
}

impl From<EditError> for Failure {
    fn from(error: EditError) -> Self {
        match error {
            EditError::Bound(error) => error.into(),
            EditError::Postgres(error) | EditError::Definition(ApplyError::Postgres(error)) => error.into(),
            EditError::Definition(error) => Self::Input(error.to_string()),
            EditError::NotFound => Self::NotFound(error.to_string()),
        }
    }
}

impl Failure {
    /// Stable, for programs.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Input(_) => "input_invalid",
            Self::NotFound(_) => "not_found",
            Self::Refused(_) => "refused",
            Self::Failed(_) => "failed",
            Self::Postgres(_) => "database_unavailable",
            Self::Queue(_) => "queue_unreachable",
            Self::Ranking(_) => "ranking_unreachable",
        }
    }

    /// The process's exit code.
    pub const fn exit_code(&self) -> u8 {
        match self {
            Self::Failed(_) | Self::Postgres(_) | Self::Queue(_) | Self::Ranking(_) => 1,
            Self::Input(_) => 2,
            Self::NotFound(_) => 3,
            Self::Refused(_) => 4,
        }
    }
}
