//! How large folds are and how often they begin, and how long things are kept.

use clap::Args;

/// The aggregator's folds.
#[derive(Args, Debug, Clone)]
pub struct AggregatorConfig {
    /// About how many score facts one fold takes at most.
    #[arg(long, env = "FOLD_MAX_FACTS", default_value_t = 40_000)]
    pub fold_max_facts: u32,
    /// While busy, folds begin at most this often (unless the last one was full), so that batches grow by themselves.
    #[arg(long, env = "FOLD_PACE_MILLIS", default_value_t = 100)]
    pub fold_pace_millis: u64,
    /// Without a notice, look for score facts this often.
    #[arg(long, env = "FOLD_IDLE_MILLIS", default_value_t = 2_000)]
    pub fold_idle_millis: u64,
}

impl Default for AggregatorConfig {
    fn default() -> Self {
        Self { fold_max_facts: 40_000, fold_pace_millis: 100, fold_idle_millis: 2_000 }
    }
}

/// An api takes a period for open up to a second after it was closed, and reads it from Redis as long.
const SHORTEST_IN_REDIS: u64 = 10;

/// How long things are kept.
#[derive(Args, Debug, Clone)]
pub struct RetentionConfig {
    /// Events older than this are dropped, a month at a time, after folding into the baseline.
    #[arg(long, env = "RETENTION_DAYS", default_value_t = 90)]
    pub retention_days: u32,
    /// How long a closed period stays in Redis, in seconds (10 or more).
    #[arg(long, env = "CLOSED_PERIOD_REDIS_TTL", default_value_t = 86_400,
          value_parser = clap::value_parser!(u64).range(SHORTEST_IN_REDIS..))]
    pub closed_period_redis_ttl: u64,
    /// How long a period that is over waits for what only a person can decide, in seconds (undecided dead letters,
    /// facts that no program could read); 0: for ever. Then it closes, and what is replayed later is counted as late.
    #[arg(long, env = "CLOSE_WAIT_SECONDS", default_value_t = 3_600)]
    pub close_wait_seconds: u64,
    /// How long decided dead letters, revoked keys and the audit log are kept, in days.
    #[arg(long, env = "LOG_RETENTION_DAYS", default_value_t = 365)]
    pub log_retention_days: u32,
}
