//! Closed periods whose Redis keys are gone: their final standings in Postgres.

use super::history::History;
use super::sorted_board::{among_themselves, page_of};
use crate::domain::board::TiePolicy;
use crate::domain::clock::Micros;
use crate::ranking::{BoardPeriod, Direction, LookedUp, Page, RankedEntry, SortKey, StandingAnswer};
use crate::store::StoreError;
use crate::store::periods::StoredPeriod;
use crate::store::standings::{FinalStanding, final_of_players, final_ranks};

/// The final standings of one closed period.
#[derive(Clone, Copy)]
pub struct FinalBoard<'a> {
    history: &'a History,
    board: &'a BoardPeriod,
    period: &'a StoredPeriod,
    shown: i64,
}

impl<'a> FinalBoard<'a> {
    /// `period` must be closed. `shown`: the last version under which Redis showed it.
    pub fn new(history: &'a History, board: &'a BoardPeriod, period: &'a StoredPeriod, shown: i64) -> Self {
        Self { history, board, period, shown }
    }

    /// What is final has one version: when it became so, unless it was shown under a later one.
    fn version(&self) -> i64 {
        self.period.closed_at.unwrap_or(Micros::EPOCH).0.max(self.shown)
    }

    fn total(&self) -> i64 {
        self.period.entry_count.unwrap_or_default()
    }

    /// As [`crate::ranking::Ranking::page`].
    pub async fn page(&self, limit: usize, from: Option<&SortKey>, direction: Direction) -> Result<Page, StoreError> {
        let limit = limit as i64;
        let (first, last) = match (direction, from) {
            (Direction::Forward, None) => (1, limit),
            (Direction::Forward, Some(key)) => {
                let up_to = self.standing_before(key, true).await?;
                (up_to + 1, up_to + limit)
            }
            (Direction::Backward, None) => (self.total() - limit + 1, self.total()),
            (Direction::Backward, Some(key)) => {
                let before = self.standing_before(key, false).await?;
                (before - limit + 1, before)
            }
        };
        self.ranks(first.max(1), last).await
    }

    async fn ranks(&self, first: i64, last: i64) -> Result<Page, StoreError> {
        let rows = if last < first { Vec::new() } else { self.final_ranks(first, last).await? };
        let before = rows.first().map_or(first - 1, |row| row.rank - 1).unsigned_abs();
        let entries = rows.into_iter().map(|row| self.ranked(row)).collect();
        Ok(page_of(self.version(), self.total().unsigned_abs(), before, entries))
    }

    /// How many entries stand before `key` (`inclusive`: or at it).
    async fn standing_before(&self, key: &SortKey, inclusive: bool) -> Result<i64, StoreError> {
        let own = self.final_of_players(&[key.player_id()]).await?;
        if let Some(row) = own.first()
            && self.key(row) == *key
        {
            return Ok(if inclusive { row.rank } else { row.rank - 1 });
        }
        // The cursor was made before its entry's last move: a binary search over the ranks, 20 steps per million.
        let (mut low, mut high) = (0, self.total());
        while low < high {
            let middle = low + (high - low) / 2 + 1;
            let row = self.final_ranks(middle, middle).await?.into_iter().next();
            match row.map(|row| self.key(&row)) {
                Some(found) if found < *key => low = middle,
                _ => high = middle - 1,
            }
        }
        Ok(low)
    }

    /// As [`crate::ranking::Ranking::around`].
    pub async fn around(&self, player: &str, limit: usize) -> Result<Page, StoreError> {
        let own = self.final_of_players(&[player]).await?;
        let Some(own) = own.first() else { return self.ranks(1, 0).await };
        let limit = limit as i64;
        let first = (own.rank - limit / 2).min(self.total() - limit + 1).max(1);
        self.ranks(first, first + limit - 1).await
    }

    /// As [`crate::ranking::Ranking::standing`].
    pub async fn standing(&self, player: &str) -> Result<StandingAnswer, StoreError> {
        let found = self.lookup(&[player]).await?;
        let entry = found.entries.into_iter().next().map(|(_, entry)| entry);
        Ok(StandingAnswer { version: found.version, total: found.total, published: true, entry })
    }

    /// As [`crate::ranking::Ranking::lookup`].
    pub async fn lookup(&self, players: &[&str]) -> Result<LookedUp, StoreError> {
        let rows = self.final_of_players(players).await?;
        let entries = rows.into_iter().map(|row| self.ranked(row)).collect();
        Ok(LookedUp {
            version: self.version(),
            total: self.total().unsigned_abs(),
            published: true,
            entries: among_themselves(entries, self.board.tie_policy),
        })
    }

    async fn final_ranks(&self, first: i64, last: i64) -> Result<Vec<FinalStanding>, StoreError> {
        let (history, id) = (self.history, self.period.id);
        let replica = history.replica_for(self.period).await.map(|replica| final_ranks(replica, id, first, last));
        history.either(replica, final_ranks(history.primary(), id, first, last)).await
    }

    async fn final_of_players(&self, players: &[&str]) -> Result<Vec<FinalStanding>, StoreError> {
        let (history, id) = (self.history, self.period.id);
        let replica = history.replica_for(self.period).await.map(|replica| final_of_players(replica, id, players));
        history.either(replica, final_of_players(history.primary(), id, players)).await
    }

    fn key(&self, row: &FinalStanding) -> SortKey {
        SortKey::new(&row.standing, &row.player_id, self.board.order)
    }

    fn ranked(&self, row: FinalStanding) -> RankedEntry {
        let rank = match self.board.tie_policy {
            TiePolicy::Ordinal => row.rank,
            TiePolicy::Competition => row.competition_rank,
        };
        RankedEntry { rank: rank.unsigned_abs(), standing: row.standing, key: self.key(&row) }
    }
}
