//! What this replica knows of who sent how much, and the limits that it holds senders to by itself.

use std::hash::{BuildHasher, RandomState};

use super::newcomers::Newcomers;
use super::sieve::Sieve;
use crate::directory::GameEntry;
use crate::domain::ids::GameId;
use crate::domain::rate::{HeldCount, WindowCount};
use crate::http::bounded_table::{BoundedTable, Expires};
use crate::http::client_address::ClientAddress;
use crate::ingest::settings::LimitsConfig;

/// Addresses, and players, that a replica remembers something of.
const MAX_ADDRESSES: usize = 100_000;
const MAX_PLAYERS: usize = 100_000;
const MAX_GAMES: usize = 10_000;
/// For how long a game that holds its share of the queue is not asked about again.
const FULL_GAME_MS: i64 = 200;

/// Until when something holds, in ms since the epoch.
#[derive(Debug, Clone, Copy, Default)]
struct Until(i64);

impl Expires for Until {
    fn is_stale(&self, now_ms: i64) -> bool {
        now_ms >= self.0
    }
}

/// Whose requests are counted together: those of one address with client keys of one game, or without a key (`None`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Sender {
    /// Whose client key.
    pub game: Option<GameId>,
    /// From where.
    pub address: ClientAddress,
}

/// A limit and what is left of it, for the `RateLimit` headers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Remaining {
    /// Its name in `RateLimit-Policy`.
    pub name: &'static str,
    /// A minute.
    pub limit: u32,
    /// How much is left.
    pub left: u32,
    /// Milliseconds until its window ends.
    pub reset_ms: u64,
}

impl Remaining {
    /// The tighter of two: the one of which the smaller share is left.
    pub fn tighter(self, other: Self) -> Self {
        let share = |of: Self, by: Self| u64::from(of.left) * u64::from(by.limit);
        if share(other, self) < share(self, other) { other } else { self }
    }
}

/// The limits of one game.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GameLimits {
    /// Events a minute per player; 0: off.
    pub player_events: u32,
    /// Events a minute in all; 0: off.
    pub game_events: u32,
}

/// What this replica knows.
#[derive(Debug)]
pub struct Limits {
    config: LimitsConfig,
    denied: BoundedTable<Sender, Until>,
    local: BoundedTable<Sender, WindowCount>,
    /// Receipts that were told to senders who are over their limit.
    repeats: BoundedTable<Sender, WindowCount>,
    /// Games that hold their share of the queue.
    full_games: BoundedTable<GameId, Until>,
    /// How many addresses Redis was told of for the first time lately.
    newcomers: Newcomers,
    /// Who may have sent a twentieth of a player's limit lately; only these are in `players`.
    pub(super) sieve: Sieve,
    pub(super) players: BoundedTable<(GameId, u64), HeldCount>,
    pub(super) games: BoundedTable<GameId, HeldCount>,
    hasher: RandomState,
}

impl Limits {
    /// Nothing is known yet.
    pub fn new(config: LimitsConfig) -> Self {
        Self {
            config,
            denied: BoundedTable::new(MAX_ADDRESSES),
            local: BoundedTable::new(MAX_ADDRESSES),
            repeats: BoundedTable::new(MAX_ADDRESSES),
            full_games: BoundedTable::new(MAX_GAMES),
            newcomers: Newcomers::default(),
            sieve: Sieve::new(),
            players: BoundedTable::new(MAX_PLAYERS),
            games: BoundedTable::new(MAX_GAMES),
            hasher: RandomState::new(),
        }
    }

    /// Requests a minute per address; 0: off.
    pub fn requests(&self) -> u32 {
        self.config.rate_limit_requests
    }

    /// How long an address over its limit is refused.
    pub fn block_ms(&self) -> u64 {
        u64::from(self.config.rate_limit_block_seconds) * 1_000
    }

    /// The limits of a game: its own, else the configured ones.
    pub fn of_game(&self, game: &GameEntry) -> GameLimits {
        GameLimits {
            player_events: game.limit_player_events.unwrap_or(self.config.rate_limit_player_events),
            game_events: game.limit_game_events.unwrap_or(self.config.rate_limit_game_events),
        }
    }

    /// For how many milliseconds more a sender is known to be blocked.
    pub fn denied(&self, sender: Sender, now_ms: i64) -> Option<u64> {
        u64::try_from(self.denied.get(sender).0 - now_ms).ok().filter(|ms| *ms > 0)
    }

    /// Redis, or the local limiter, blocked a sender.
    pub fn deny(&self, sender: Sender, for_ms: u64, now_ms: i64) {
        let until = now_ms.saturating_add(i64::try_from(for_ms).unwrap_or(i64::MAX));
        // When the table is full the next request asks Redis again: slower, still refused.
        self.denied.update(sender, now_ms, |denied| denied.0 = until);
    }

    /// Whether a sender who is over the limit may still ask for a receipt that stands: as often again as
    /// the limit says.
    pub fn may_ask_for_receipt(&self, sender: Sender, now_ms: i64) -> bool {
        let limit = self.config.rate_limit_requests;
        limit == 0 || self.repeats.update(sender, now_ms, |c| c.count(limit, now_ms)).unwrap_or(false)
    }

    /// A game holds its share of the queue: for a moment it is refused without asking.
    pub fn game_is_full(&self, game: GameId, now_ms: i64) {
        self.full_games.update(game, now_ms, |full| full.0 = now_ms + FULL_GAME_MS);
    }

    /// Whether a game was found to hold its share of the queue a moment ago.
    pub fn was_full(&self, game: GameId, now_ms: i64) -> bool {
        now_ms < self.full_games.get(game).0
    }

    /// Whether addresses are counted in Redis for now: not while there come so many that their windows would fill it.
    pub fn asks_redis(&self, now_ms: i64) -> bool {
        self.newcomers.lately(now_ms) < self.config.rate_limit_addresses
    }

    /// Redis counted an address, of whose limit `left` is left.
    pub fn counted(&self, left: u32, now_ms: i64) {
        // Its first request within the window made its key.
        if left.saturating_add(1) >= self.config.rate_limit_requests {
            self.newcomers.add(now_ms);
        }
    }

    /// The local limiter, for when Redis is not asked: counts a request; `Some`: refuse it, for so many milliseconds. A
    /// full table refuses nobody.
    pub fn refused_locally(&self, sender: Sender, now_ms: i64) -> Option<u64> {
        let limit = self.config.rate_limit_requests;
        if limit == 0 {
            return None;
        }
        let count = |count: &mut WindowCount| (!count.count(limit, now_ms)).then(|| count.ends_in_ms(now_ms));
        let for_ms = self.local.update(sender, now_ms, count).flatten()?.max(self.block_ms());
        self.deny(sender, for_ms, now_ms);
        Some(for_ms)
    }

    pub(super) fn player_key(&self, game: GameId, player: &str) -> (GameId, u64) {
        (game, self.hasher.hash_one(player))
    }
}
