//! What can be asked of a board, and the answers.

use super::gather::Question;
use super::key::SortKey;
use crate::domain::board::{Order, TiePolicy};
use crate::domain::ids::BoardGenerationId;
use crate::domain::period::Period;
use crate::domain::ranking_key::Standing;

/// Most entries of one page.
pub const MAX_PAGE: usize = 1_000;
/// Most players of one lookup.
pub const MAX_LOOKUP: usize = 500;

/// Most players whose neighbours one call reads, and most neighbours: some milliseconds of Redis.
const MAX_PLAYERS: usize = 100;
const MAX_TOGETHER: usize = 2_000;
/// From how many neighbours on everybody asks alone: there is little to share.
const LARGE: usize = 100;

/// One period of one board, and how it ranks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct BoardPeriod {
    /// The live generation.
    pub generation: BoardGenerationId,
    /// Which period of it.
    pub period: Period,
    /// The definition's order.
    pub order: Order,
    /// The leaderboard's tie policy.
    pub tie_policy: TiePolicy,
}

/// Which way a page goes from its cursor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Direction {
    /// Towards the end of the board: the entries after the cursor.
    Forward,
    /// Towards rank 1: the entries before the cursor, still listed best first.
    Backward,
}

/// An entry with its rank by the board's tie policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RankedEntry {
    /// From 1.
    pub rank: u64,
    /// Score, subscore and when it was reached.
    pub standing: Standing,
    /// Its place in the order; holds the player.
    pub key: SortKey,
}

impl RankedEntry {
    /// Whose entry it is.
    pub fn player_id(&self) -> &str {
        self.key.player_id()
    }
}

/// A part of a board.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// The board's version: answers of equal version never disagree.
    pub version: i64,
    /// Entries in the period.
    pub total: u64,
    /// Whether Redis holds this period. If not, the period has no entries yet, or it was closed so long ago that
    /// Postgres has to be asked.
    pub published: bool,
    /// Best first.
    pub entries: Vec<RankedEntry>,
    /// Where the next page begins (going [`Direction::Forward`]), if there is one.
    pub next: Option<SortKey>,
    /// Where the previous page begins (going [`Direction::Backward`]), if there is one.
    pub previous: Option<SortKey>,
}

/// One player's standing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StandingAnswer {
    /// As in [`Page`].
    pub version: i64,
    /// As in [`Page`].
    pub total: u64,
    /// As in [`Page`].
    pub published: bool,
    /// `None`: no entry.
    pub entry: Option<RankedEntry>,
}

/// Some players, ranked overall and among themselves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LookedUp {
    /// As in [`Page`].
    pub version: i64,
    /// As in [`Page`].
    pub total: u64,
    /// As in [`Page`].
    pub published: bool,
    /// Best first, each with its rank among those asked for (from 1, by the same tie policy). Players without an
    /// entry are absent.
    pub entries: Vec<(u64, RankedEntry)>,
}

/// `limit` entries with some player in the middle.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Around {
    pub(super) board: BoardPeriod,
    pub(super) limit: usize,
}

/// A standing, asked for by many at once.
impl Question for BoardPeriod {
    type Answer = StandingAnswer;

    fn most(&self) -> usize {
        MAX_LOOKUP
    }
}

impl Question for Around {
    type Answer = Page;

    fn most(&self) -> usize {
        if self.limit < LARGE { (MAX_TOGETHER / self.limit).min(MAX_PLAYERS) } else { 1 }
    }
}
