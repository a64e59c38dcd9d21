//! Where Redis is, by what it is used for.

use clap::Args;
use secrecy::{ExposeSecret, SecretString};

/// Where Redis is. Each use may have its own server; all default to `REDIS_URL`, but for the limits, which are with the
/// queue unless they are given a place.
#[derive(Args, Debug, Clone)]
pub struct RedisConfig {
    /// Redis, 7 or newer: `redis://…`; for the queue, the limits and the cache also
    /// `redis-cluster://host:port,host:port`.
    #[arg(long, env = "REDIS_URL", default_value = "redis://127.0.0.1:6379", hide_env_values = true)]
    pub redis_url: SecretString,
    /// The job queue: needs AOF and `noeviction`.
    #[arg(long, env = "REDIS_QUEUE_URL", hide_env_values = true)]
    pub redis_queue_url: Option<SecretString>,
    /// Published leaderboards: disposable, rebuilt from Postgres; needs `noeviction`.
    #[arg(long, env = "REDIS_RANKING_URL", hide_env_values = true)]
    pub redis_ranking_url: Option<SecretString>,
    /// Rate limits: disposable. With the queue where absent, which saves a call per request.
    #[arg(long, env = "REDIS_LIMITS_URL", hide_env_values = true)]
    pub redis_limits_url: Option<SecretString>,
    /// The directory: disposable.
    #[arg(long, env = "REDIS_CACHE_URL", hide_env_values = true)]
    pub redis_cache_url: Option<SecretString>,
    /// Prefix of every key, so that several installations can share a server.
    #[arg(long, env = "REDIS_PREFIX", default_value = "sl")]
    pub redis_prefix: String,
}

/// What Redis is used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RedisUse {
    /// The job queue.
    Queue,
    /// Published leaderboards.
    Ranking,
    /// Rate limits.
    Limits,
    /// The directory.
    Cache,
}

impl RedisUse {
    /// Its name on `/readyz`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Queue => "redis_queue",
            Self::Ranking => "redis_ranking",
            Self::Limits => "redis_limits",
            Self::Cache => "redis_cache",
        }
    }
}

impl RedisConfig {
    /// The URL of one use.
    pub fn url_of(&self, use_: RedisUse) -> &str {
        let own = match use_ {
            RedisUse::Queue => &self.redis_queue_url,
            RedisUse::Ranking => &self.redis_ranking_url,
            RedisUse::Limits if self.redis_limits_url.is_none() => &self.redis_queue_url,
            RedisUse::Limits => &self.redis_limits_url,
            RedisUse::Cache => &self.redis_cache_url,
        };
        own.as_ref().unwrap_or(&self.redis_url).expose_secret()
    }
}
