//! Where the api listens, who may administer it, and what one game may have.

use std::net::SocketAddr;

use clap::Args;
use secrecy::SecretString;

use crate::domain::game_bounds::GameBounds;

/// What a game may have where nothing is set.
const DEFAULT: GameBounds = GameBounds::DEFAULT;

/// The api.
#[derive(Args, Debug, Clone)]
pub struct ApiConfig {
    /// Public address of the api.
    #[arg(long = "api-listen", env = "API_LISTEN", default_value = "127.0.0.1:8081")]
    pub api_listen: SocketAddr,
    /// The operators' token, at least 24 characters. Without it the admin routes take server keys only.
    #[arg(long, env = "ADMIN_TOKEN", hide_env_values = true)]
    pub admin_token: Option<SecretString>,
    /// `max-age` of public answers, in seconds.
    #[arg(long, env = "PUBLIC_MAX_AGE", default_value_t = 1)]
    pub public_max_age: u32,
    /// Reads without a key of one address within a minute that may ask Postgres (closed periods, also while Redis has
    /// them; `include=`; lists of periods); 0: any number.
    #[arg(long, env = "RATE_LIMIT_PUBLIC_READS", default_value_t = 1_200)]
    pub rate_limit_public_reads: u32,
    /// What one game may have.
    #[command(flatten)]
    pub bounds: GameBoundsConfig,
}

/// What one game may have, and how often it may change it through the api. More is refused; what there is stays.
#[derive(Args, Debug, Clone)]
pub struct GameBoundsConfig {
    /// Leaderboards of a game.
    #[arg(long, env = "MAX_LEADERBOARDS", default_value_t = DEFAULT.max_leaderboards)]
    pub max_leaderboards: u32,
    /// Leaderboards of a game that count events of one type. Each such event makes as many score facts, and twice as
    /// many while they are all computed anew.
    #[arg(long, env = "MAX_LEADERBOARDS_PER_EVENT_TYPE", default_value_t = DEFAULT.max_leaderboards_per_event_type)]
    pub max_leaderboards_per_event_type: u32,
    /// Bytes of the definitions of a game's leaderboards together.
    #[arg(long, env = "MAX_DEFINITION_BYTES", default_value_t = DEFAULT.max_definition_bytes)]
    pub max_definition_bytes: u32,
    /// Keys of a game that are not revoked.
    #[arg(long, env = "MAX_KEYS", default_value_t = DEFAULT.max_keys)]
    pub max_keys: u32,
    /// Changes of a game's leaderboards and keys a minute (creating, editing, deleting, recomputing, rebuilding): that
    /// many at once, then one at a time, evenly. Revoking a key is never refused. 0: no bound.
    #[arg(long, env = "MAX_CHANGES_PER_MINUTE", default_value_t = DEFAULT.max_changes_per_minute)]
    pub max_changes_per_minute: u32,
}

impl From<GameBoundsConfig> for GameBounds {
    fn from(config: GameBoundsConfig) -> Self {
        Self {
            max_leaderboards: config.max_leaderboards,
            max_leaderboards_per_event_type: config.max_leaderboards_per_event_type,
            max_definition_bytes: config.max_definition_bytes,
            max_keys: config.max_keys,
            max_changes_per_minute: config.max_changes_per_minute,
        }
    }
}
