//! A small board in memory, sorted as Redis would: what is answered while Redis does not hold it.

use std::collections::HashSet;

use crate::domain::board::TiePolicy;
use crate::domain::ranking_key::Standing;
use crate::ranking::{BoardPeriod, Direction, LookedUp, Page, RankedEntry, SortKey, StandingAnswer, next_rank};
use crate::store::standings::SmallBoard;

/// All entries of a period, ranked.
#[derive(Debug)]
pub struct SortedBoard {
    version: i64,
    entries: Vec<RankedEntry>,
}

impl SortedBoard {
    /// Sorts and ranks a board from Postgres. `at_least`: the version that was shown of it before it was read.
    pub fn new(board: &BoardPeriod, small: SmallBoard, at_least: i64) -> Self {
        let mut entries: Vec<RankedEntry> = small
            .entries
            .into_iter()
            .map(|entry| {
                let key = SortKey::new(&entry.standing, &entry.player_id, board.order);
                RankedEntry { rank: 0, standing: entry.standing, key }
            })
            .collect();
        entries.sort_unstable_by(|a, b| a.key.cmp(&b.key));
        assign_ranks(&mut entries, board.tie_policy);
        Self { version: small.version.max(at_least), entries }
    }

    /// The board's version.
    pub fn version(&self) -> i64 {
        self.version
    }

    /// As [`crate::ranking::Ranking::page`].
    pub fn page(&self, limit: usize, from: Option<&SortKey>, direction: Direction) -> Page {
        let before = |key: &SortKey| self.entries.partition_point(|e| e.key < *key);
        match direction {
            Direction::Forward => {
                let first = from.map_or(0, |key| self.entries.partition_point(|e| e.key <= *key));
                self.slice(first, first.saturating_add(limit))
            }
            Direction::Backward => {
                let end = from.map_or(self.entries.len(), before);
                self.slice(end.saturating_sub(limit), end)
            }
        }
    }

    /// As [`crate::ranking::Ranking::around`].
    pub fn around(&self, player: &str, limit: usize) -> Page {
        let Some(at) = self.entries.iter().position(|e| e.player_id() == player) else { return self.slice(0, 0) };
        let first = at.saturating_sub(limit / 2).min(self.entries.len().saturating_sub(limit));
        self.slice(first, first.saturating_add(limit))
    }

    /// As [`crate::ranking::Ranking::standing`].
    pub fn standing(&self, player: &str) -> StandingAnswer {
        let entry = self.entries.iter().find(|e| e.player_id() == player).cloned();
        StandingAnswer { version: self.version, total: self.entries.len() as u64, published: true, entry }
    }

    /// As [`crate::ranking::Ranking::lookup`].
    pub fn lookup(&self, board: &BoardPeriod, players: &[&str]) -> LookedUp {
        let wanted: HashSet<&str> = players.iter().copied().collect();
        let found = self.entries.iter().filter(|e| wanted.contains(e.player_id())).cloned().collect();
        LookedUp {
            version: self.version,
            total: self.entries.len() as u64,
            published: true,
            entries: among_themselves(found, board.tie_policy),
        }
    }

    fn slice(&self, first: usize, end: usize) -> Page {
        let end = end.min(self.entries.len());
        let entries = self.entries.get(first..end).unwrap_or_default().to_vec();
        page_of(self.version, self.entries.len() as u64, first as u64, entries)
    }
}

/// A page of entries of which `before` others come first.
pub fn page_of(version: i64, total: u64, before: u64, entries: Vec<RankedEntry>) -> Page {
    let end = before + entries.len() as u64;
    let next = entries.last().filter(|_| end < total).map(|e| e.key.clone());
    let previous = entries.first().filter(|_| before > 0).map(|e| e.key.clone());
    Page { version, total, published: true, entries, next, previous }
}

/// Ranks entries (sorted, best first) among themselves.
pub fn among_themselves(entries: Vec<RankedEntry>, policy: TiePolicy) -> Vec<(u64, RankedEntry)> {
    let mut ranked = entries.clone();
    assign_ranks(&mut ranked, policy);
    ranked.into_iter().map(|e| e.rank).zip(entries).collect()
}

fn assign_ranks(entries: &mut [RankedEntry], policy: TiePolicy) {
    let mut last: Option<(u64, Standing)> = None;
    for (entry, position) in entries.iter_mut().zip(1u64..) {
        entry.rank = next_rank(policy, last, &entry.standing, position);
        last = Some((entry.rank, entry.standing));
    }
}
