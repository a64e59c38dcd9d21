//! What is published, and the names of all keys that a publication may touch.

use super::read::{period_keys, period_name};
use crate::domain::board::Order;
use crate::domain::board_version;
use crate::domain::ids::BoardGenerationId;
use crate::domain::period::Period;
use crate::domain::ranking_key::Standing;

/// A standing to publish.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PublishedEntry<'a> {
    /// Whose.
    pub player_id: &'a str,
    /// `None`: the entry was removed.
    pub standing: Option<Standing>,
}

/// Where a publication goes: the period, and the names of all keys that it may touch.
pub(super) struct Target {
    pub(super) generation: BoardGenerationId,
    /// What the period is called.
    pub(super) period: String,
    pub(super) order: Order,
    /// What the entries' version becomes.
    pub(super) entry_version: i64,
    /// Calls for other periods that the same fold changed, still to come.
    following: usize,
    pub(super) ready: String,
    /// The board's version.
    pub(super) version: String,
    pub(super) rebuild: String,
    pub(super) periods: String,
    pub(super) rank: String,
    pub(super) member: String,
    pub(super) shadow_periods: String,
    pub(super) shadow_rank: String,
    pub(super) shadow_member: String,
}

impl Target {
    pub(super) fn new(
        base: &str,
        generation: BoardGenerationId,
        period: &Period,
        order: Order,
        entry_version: i64,
        following: usize,
    ) -> Self {
        let period = period_name(period);
        let ((rank, member), (shadow_rank, shadow_member)) = (period_keys(base, &period), shadow_keys(base, &period));
        Self {
            generation,
            period,
            order,
            entry_version,
            following,
            ready: format!("{base}ready"),
            version: format!("{base}version"),
            rebuild: format!("{base}rebuild"),
            periods: format!("{base}periods"),
            rank,
            member,
            shadow_periods: format!("{base}shadow:periods"),
            shadow_rank,
            shadow_member,
        }
    }

    /// The least version that the board has when `left` calls for this period are still to come. What Postgres answers
    /// under the fold's own version has all of them.
    pub(super) fn board_version(&self, left: usize) -> i64 {
        board_version::of_part(self.entry_version, left + self.following)
    }
}

/// Names of the sorted set and hash that a rebuild writes.
pub(super) fn shadow_keys(base: &str, period: &str) -> (String, String) {
    (format!("{base}shadow:{period}:rank"), format!("{base}shadow:{period}:member"))
}
