//! What ingest accepts, and how much of it from one client.

use std::net::SocketAddr;

use clap::Args;

/// Limits on what one client may send.
#[derive(Args, Debug, Clone)]
pub struct LimitsConfig {
    /// Requests a minute per address, for client keys and calls without a key; 0 turns it off.
    #[arg(long, env = "RATE_LIMIT_REQUESTS", default_value_t = 200)]
    pub rate_limit_requests: u32,
    /// Most addresses that each ingest process counts in Redis within a minute. Beyond them it counts by itself, in
    /// tables of a fixed size, so that a flood from many addresses cannot fill Redis.
    #[arg(long, env = "RATE_LIMIT_ADDRESSES", default_value_t = 100_000)]
    pub rate_limit_addresses: u32,
    /// How long an address over its limit is refused.
    #[arg(long, env = "RATE_LIMIT_BLOCK_SECONDS", default_value_t = 60)]
    pub rate_limit_block_seconds: u32,
    /// Events a minute per player; 0 turns it off. A game may have its own.
    #[arg(long, env = "RATE_LIMIT_PLAYER_EVENTS", default_value_t = 6_000)]
    pub rate_limit_player_events: u32,
    /// Events a minute per game; 0 turns it off. A game may have its own.
    #[arg(long, env = "RATE_LIMIT_GAME_EVENTS", default_value_t = 0)]
    pub rate_limit_game_events: u32,
}

/// What ingest accepts.
#[derive(Args, Debug, Clone)]
pub struct IngestConfig {
    /// Public address of ingest.
    #[arg(long = "ingest-listen", env = "INGEST_LISTEN", default_value = "127.0.0.1:8080")]
    pub ingest_listen: SocketAddr,
    /// Most events in one batch (1 to 10,000).
    #[arg(long, env = "MAX_BATCH_EVENTS", default_value_t = 100, value_parser = max_batch_events())]
    pub max_batch_events: usize,
    /// Most bytes of a body, compressed or not.
    #[arg(long, env = "MAX_BODY_BYTES", default_value_t = 512 * 1024)]
    pub max_body_bytes: usize,
    /// Most bytes of one event.
    #[arg(long, env = "MAX_EVENT_BYTES", default_value_t = 32 * 1024)]
    pub max_event_bytes: usize,
    /// How old an event may be.
    #[arg(long, env = "MAX_EVENT_AGE_SECONDS", default_value_t = 7 * 86_400)]
    pub max_event_age_seconds: u32,
    /// How far ahead of the server's clock an event may be.
    #[arg(long, env = "MAX_EVENT_AHEAD_SECONDS", default_value_t = 600)]
    pub max_event_ahead_seconds: u32,
    /// Receipts remembered of a game for `Idempotency-Key`: as many by its client keys, and as many by its server keys.
    #[arg(long, env = "MAX_IDEMPOTENCY_KEYS", default_value_t = 100_000)]
    pub max_idempotency_keys: u32,
    /// Receipts remembered of all games together.
    #[arg(long, env = "MAX_IDEMPOTENCY_KEYS_IN_ALL", default_value_t = 1_000_000)]
    pub max_idempotency_keys_in_all: u32,
}

/// A job counts its events in 16 bits.
fn max_batch_events() -> clap::builder::RangedU64ValueParser<usize> {
    clap::builder::RangedU64ValueParser::new().range(1..=10_000)
}
