//! What ingest and api must know of games, keys and leaderboards, as one versioned snapshot in Redis.
//!
//! Ingest has no Postgres connection. Every change to games, keys or leaderboards increments
//! `directory_version.version` in its transaction and then publishes the snapshot; cron compares the versions each
//! second and repairs. A process keeps the last snapshot it read in memory, so a flushed or absent Redis costs no one
//! their keys. `docs/adr/0006-directory.md` says why.
//!
//! [`publication`] says where it lies and writes it, [`follow::DirectorySource`] reads and follows it. What is written
//! comes from Postgres, which this room does not know (`services/directory_publication.rs`).

pub mod follow;
pub mod publication;
pub mod snapshot;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::domain::board::{CompiledBoard, LeaderboardSpec, TiePolicy};
use crate::domain::ids::{GameId, Slug};

pub use crate::domain::keys::{KeyHash, KeyKind, hash_key};
pub use follow::{DirectorySource, load};
pub use snapshot::Part;

/// The directory that a process holds: read with `load()`, replaced by the task that follows Redis.
pub type SharedDirectory = Arc<ArcSwap<Directory>>;

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
    /// Leaderboards of which this program can read nothing: a newer one wrote them.
    pub unreadable: HashSet<Slug>,
}

/// A leaderboard as the api reads it.
#[derive(Debug, Clone)]
pub struct LeaderboardEntry {
    /// `leaderboards.id`.
    pub id: i32,
    /// What players see; `None` until the first recompute has finished.
    pub live: Option<Arc<CompiledBoard>>,
    /// Whether a newer generation is being computed.
    pub building: bool,
    /// For people.
    pub name: String,
    /// Readable without a key.
    pub public: bool,
    /// How equal scores rank.
    pub tie_policy: TiePolicy,
    /// The specification as last written; what players see until `building` is over is `live`'s.
    pub spec: Arc<LeaderboardSpec>,
}

/// One snapshot.
#[derive(Debug, Default)]
pub struct Directory {
    /// `directory_version.version` it was made from; 0 before the first was read.
    pub version: i64,
    /// `directory_version.mark`: another one in another history of the database that reached this version.
    pub mark: String,
    /// Unrevoked keys by hash.
    pub keys: HashMap<KeyHash, KeyEntry>,
    /// Games by slug.
    pub games: HashMap<Slug, Arc<GameEntry>>,
    /// What both were made from, game by game: what the next snapshot has alike is not read again.
    pub parts: HashMap<GameId, Arc<Part>>,
}

impl Directory {
    /// Who presents `key` (the text after `Bearer`), if it is a key of any game that was not revoked.
    pub fn authenticate(&self, key: &str) -> Option<&KeyEntry> {
        self.keys.get(&hash_key(key))
    }
}
