//! How much one game may have, and how often it may change it.

/// What one game may have, and how often it may change it through the api. More is refused; what there is stays.
#[derive(Debug, Clone)]
pub struct GameBounds {
    /// Leaderboards of a game.
    pub max_leaderboards: u32,
    /// Leaderboards of a game that count events of one type. Each such event makes as many score facts.
    pub max_leaderboards_per_event_type: u32,
    /// Bytes of the definitions of a game's leaderboards together.
    pub max_definition_bytes: u32,
    /// Keys of a game that are not revoked.
    pub max_keys: u32,
    /// Changes of a game's leaderboards and keys a minute; 0: no bound.
    pub max_changes_per_minute: u32,
}

impl GameBounds {
    /// The bounds of an installation that sets none.
    pub const DEFAULT: Self = Self {
        max_leaderboards: 100,
        max_leaderboards_per_event_type: 25,
        max_definition_bytes: 256 * 1024,
        max_keys: 100,
        max_changes_per_minute: 60,
    };
}

impl Default for GameBounds {
    fn default() -> Self {
        Self::DEFAULT
    }
}
