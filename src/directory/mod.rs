//! What ingest and api must know of games, keys and leaderboards, as one versioned snapshot in Redis.
//!
//! Ingest has no Postgres connection. Every change to games, keys or leaderboards increments
//! `directory_version.version` in its transaction and then publishes the snapshot; cron compares the versions each
//! second and repairs. A process keeps the last snapshot it read in memory, so a flushed or absent Redis costs no one
//! their keys.

use std::collections::HashMap;
use std::sync::Arc;

use crate::domain::board::{CompiledBoard, TiePolicy};
use crate::domain::ids::{GameId, Slug};

/// What a key may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KeyKind {
    /// Publishable: post events, read public data.
    Client,
    /// Secret: everything of its game.
    Server,
}

/// SHA-256 of a key.
pub type KeyHash = [u8; 32];

/// A key as found in the directory.
#[derive(Debug, Clone)]
pub struct KeyEntry {
    /// `api_keys.id`.
    pub id: i32,
    /// What it may do.
    pub kind: KeyKind,
    /// Whose it is.
    pub game: Arc<GameEntry>,
}

/// A game with its leaderboards.
#[derive(Debug)]
pub struct GameEntry {
    /// `games.id`.
    pub id: GameId,
    /// Its name in URLs.
    pub slug: Slug,
    /// Events a minute per player; `None`: the process's default; 0: off.
    pub limit_player_events: Option<u32>,
    /// Events a minute in all; likewise.
    pub limit_game_events: Option<u32>,
    /// Live and building generations by event type: what makes an event `high`, and what a warning is about.
    pub feeds: HashMap<String, Vec<Arc<CompiledBoard>>>,
    /// Leaderboards by slug.
    pub leaderboards: HashMap<Slug, LeaderboardEntry>,
}

/// A leaderboard as the api reads it.
#[derive(Debug, Clone)]
pub struct LeaderboardEntry {
    /// `leaderboards.id`.
    pub id: i32,
    /// What players see; `None` until the first recompute has finished.
    pub live: Option<Arc<CompiledBoard>>,
    /// For people.
    pub name: String,
    /// Readable without a key.
    pub public: bool,
    /// How equal scores rank.
    pub tie_policy: TiePolicy,
}

/// One snapshot.
#[derive(Debug, Default)]
pub struct Directory {
    /// `directory_version.version` it was made from; 0 before the first was read.
    pub version: i64,
    /// Unrevoked keys by hash.
    pub keys: HashMap<KeyHash, KeyEntry>,
    /// Games by slug.
    pub games: HashMap<Slug, Arc<GameEntry>>,
}
