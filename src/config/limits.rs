//! How much of something one game may have.

use clap::Args;

/// What one game may have, and how often it may change it through the api. More is refused; what there is stays.
#[derive(Args, Debug, Clone)]
pub struct GameBounds {
    /// Leaderboards of a game.
    #[arg(long, env = "MAX_LEADERBOARDS", default_value_t = 100)]
    pub max_leaderboards: u32,
    /// Leaderboards of a game that count events of one type. Each such event makes as many score facts, and twice as
    /// many while they are all computed anew.
    #[arg(long, env = "MAX_LEADERBOARDS_PER_EVENT_TYPE", default_value_t = 25)]
    pub max_leaderboards_per_event_type: u32,
    /// Bytes of the definitions of a game's leaderboards together.
    #[arg(long, env = "MAX_DEFINITION_BYTES", default_value_t = 256 * 1024)]
    pub max_definition_bytes: u32,
    /// Keys of a game that are not revoked.
    #[arg(long, env = "MAX_KEYS", default_value_t = 100)]
    pub max_keys: u32,
    /// Changes of a game's leaderboards and keys a minute (creating, editing, deleting, recomputing, rebuilding): that
    /// many at once, then one at a time, evenly. Revoking a key is never refused. 0: no bound.
    #[arg(long, env = "MAX_CHANGES_PER_MINUTE", default_value_t = 60)]
    pub max_changes_per_minute: u32,
}

impl Default for GameBounds {
    fn default() -> Self {
        Self {
            max_leaderboards: 100,
            max_leaderboards_per_event_type: 25,
            max_definition_bytes: 256 * 1024,
            max_keys: 100,
            max_changes_per_minute: 60,
        }
    }
}
