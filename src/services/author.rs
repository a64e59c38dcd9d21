//! Who changes what a game has.

use crate::domain::game_bounds::GameBounds;
use crate::store::audit_log::Actor;

/// Who changes what a game has, and within which bounds.
#[derive(Debug, Clone, Copy)]
pub struct Author<'a> {
    /// For the audit log.
    pub actor: Actor,
    /// What the game may have, and how often it may change; `None`: whatever Postgres holds.
    pub bounds: Option<&'a GameBounds>,
}

impl Author<'_> {
    /// Whoever may run `scoreline` against the database.
    pub const COMMAND_LINE: Author<'static> = Author { actor: Actor::CommandLine, bounds: None };
}
