//! The directory as it travels: one text per game, all of one moment. What a text holds is for its reader.

use sha2::Digest as _;

use super::ids::GameId;

/// A game as it travels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GameText {
    /// `games.id`.
    pub id: GameId,
    /// Its name, limits, unrevoked keys and leaderboards as a JSON object.
    pub json: String,
}

/// Every game at one version.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// `directory_version.version`.
    pub version: i64,
    /// `directory_version.mark`, which tells histories of one number apart; empty: published by a program without it.
    pub mark: String,
    /// All games.
    pub games: Vec<GameText>,
}

impl GameText {
    /// Tells this text from another one of the same game: half of its SHA-256, in hexadecimal.
    pub fn digest(&self) -> String {
        let whole = sha2::Sha256::digest(self.json.as_bytes());
        hex::encode(&whole[..whole.len() / 2])
    }
}
