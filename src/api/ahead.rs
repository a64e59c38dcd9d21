//! Boards that were answered from Postgres while Redis did not have them, and of which Redis may show less for
//! a moment: a fold is in Postgres before it is published. Until all that was shown is published Postgres goes
//! on answering, so that no player sees a leaderboard go back. What others wait for to be published keeps no
//! board waiting.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use moka::future::Cache;

use super::cache::BoardKey;
use crate::ranking::{BoardPeriod, HeldEntry, Ranking, ReadError};
use crate::store::standings::SmallBoard;

/// Most boards, and most entries of all of them, that are remembered. Beyond that those are forgotten that were shown
/// longest ago, and may be seen to go back for a moment.
const MAX_BOARDS: usize = 1_000;
const MAX_ENTRIES: usize = 200_000;
/// Redis is asked about a board no more often than this.
const ASK_EVERY: Duration = Duration::from_millis(100);
/// So many entries are asked for first. While one of them waits, nobody needs to know of the others.
const FIRST: usize = 32;

/// Entries that Redis may not have, with their versions. All that were shown: no entry's version says anything of
/// another's. Whoever publishes for a shard changes, and a marker that was found late is published late.
type Entries = Arc<[(String, i64)]>;

#[derive(Debug, Clone)]
struct Shown {
    entries: Entries,
    /// In which era Postgres showed it.
    era: i64,
    /// Counts what was shown.
    turn: u64,
}

/// What was shown, by board.
#[derive(Debug)]
pub struct Ahead {
    shown: ArcSwap<HashMap<BoardKey, Shown>>,
    turns: AtomicU64,
    waiting: Cache<BoardKey, bool>,
}

impl Default for Ahead {
    fn default() -> Self {
        let waiting = Cache::builder().max_capacity(MAX_BOARDS as u64).time_to_live(ASK_EVERY).build();
        Self { shown: ArcSwap::default(), turns: AtomicU64::new(0), waiting }
    }
}

impl Ahead {
    /// Notes what was shown of a board by a Postgres that was asked in this era. It takes the place of what an earlier
    /// one showed: what is lost is never published, and waiting for that would be for ever.
    pub fn showed(&self, key: BoardKey, era: i64, board: &SmallBoard) {
        if board.entries.is_empty() {
            return self.forget_older(key, era);
        }
        let entries = board.entries.iter().map(|entry| (entry.player_id.clone(), entry.version));
        let mut entries: Vec<(String, i64)> = entries.collect();
        // What is still to be published is most likely what changed last.
        entries.sort_unstable_by_key(|(_, version)| Reverse(*version));
        let shown = Shown { entries: entries.into(), era, turn: self.turns.fetch_add(1, Ordering::Relaxed) };
        self.shown.rcu(|all| {
            let mut all = HashMap::clone(all);
            // Unless it was asked before an era, and answers after others in it.
            if all.get(&key).is_none_or(|last| last.era <= era) {
                all.insert(key, shown.clone());
                forget_oldest(&mut all);
            }
            all
        });
    }

    /// Postgres does not show this board whole in this era: what it showed in an earlier one may be lost.
    pub fn forget_older(&self, key: BoardKey, era: i64) {
        let is_older = |shown: &Shown| shown.era < era;
        if self.shown.load().get(&key).is_some_and(is_older) {
            self.shown.rcu(|all| {
                let mut all = HashMap::clone(all);
                if all.get(&key).is_some_and(is_older) {
                    all.remove(&key);
                }
                all
            });
        }
    }

    /// Whether Redis has to be held against what was shown of this board. Nearly never, and cheap to ask.
    pub fn is_known(&self, key: BoardKey) -> bool {
        let shown = self.shown.load();
        !shown.is_empty() && shown.contains_key(&key)
    }

    /// Whether something that was shown is still not published.
    ///
    /// # Errors
    /// Redis does not say, or it has lost a part of the board: it would not answer either.
    pub async fn waits(&self, key: BoardKey, board: &BoardPeriod, ranking: &Ranking) -> Result<bool, ReadError> {
        let ask = async {
            let Some(Shown { entries, .. }) = self.shown.load().get(&key).cloned() else { return Ok(false) };
            let waiting = waiting(&entries, board, ranking).await?;
            self.replace(key, &entries, &waiting);
            Ok(!waiting.is_empty())
        };
        if self.waiting.try_get_with(key, ask).await.map_err(|error| ReadError::clone(&error))? {
            return Ok(true);
        }
        self.waiting.invalidate(&key).await;
        // What was shown meanwhile is another matter.
        Ok(self.is_known(key))
    }

    /// What was published is not asked for again.
    fn replace(&self, key: BoardKey, asked: &Entries, waiting: &Entries) {
        self.shown.rcu(|all| {
            let mut all = HashMap::clone(all);
            if let Some(shown) = all.get_mut(&key).filter(|shown| Arc::ptr_eq(&shown.entries, asked)) {
                shown.entries = Arc::clone(waiting);
                if waiting.is_empty() {
                    all.remove(&key);
                }
            }
            all
        });
    }
}

fn forget_oldest(all: &mut HashMap<BoardKey, Shown>) {
    let mut entries: usize = all.values().map(|shown| shown.entries.len()).sum();
    while all.len() > MAX_BOARDS || entries > MAX_ENTRIES {
        let Some(oldest) = all.iter().min_by_key(|(_, shown)| shown.turn).map(|(key, _)| *key) else { return };
        entries -= all.remove(&oldest).map_or(0, |shown| shown.entries.len());
    }
}

/// Of these entries, those that are still to be asked for: empty when all are published. While one of the first is not,
/// that is all of them.
async fn waiting(entries: &Entries, board: &BoardPeriod, ranking: &Ranking) -> Result<Entries, ReadError> {
    let (first, rest) = entries.split_at(entries.len().min(FIRST));
    if !unpublished(first, board, ranking).await?.is_empty() {
        return Ok(Arc::clone(entries));
    }
    Ok(unpublished(rest, board, ranking).await?.into())
}

async fn unpublished(
    entries: &[(String, i64)],
    board: &BoardPeriod,
    ranking: &Ranking,
) -> Result<Vec<(String, i64)>, ReadError> {
    let players: Vec<&str> = entries.iter().map(|(player, _)| player.as_str()).collect();
    let held = ranking.held(board, &players).await?;
    if !held.whole {
        return Err(ReadError::Damaged);
    }
    let both = entries.iter().zip(&held.entries);
    Ok(both.filter(|((_, shown), held)| is_behind(held.as_ref(), *shown)).map(|(entry, _)| entry.clone()).collect())
}

fn is_behind(held: Option<&HeldEntry>, shown: i64) -> bool {
    held.is_none_or(|held| held.version < shown)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::board::{Order, TiePolicy};
    use crate::domain::clock::Micros;
    use crate::domain::ids::BoardGenerationId;
    use crate::domain::period::Period;
    use crate::domain::ranking_key::Standing;
    use crate::store::standings::StoredEntry;

    fn key(generation: i32) -> BoardKey {
        let generation = BoardGenerationId(generation);
        let (order, tie_policy) = (Order::Descending, TiePolicy::Ordinal);
        BoardKey::from(&BoardPeriod { generation, period: Period::WHOLE, order, tie_policy })
    }

    fn board(entries: usize) -> SmallBoard {
        let standing = Standing { score: 1, subscore: 0, reached_at: Micros(0) };
        let entry = |n: usize| StoredEntry { player_id: format!("p-{n}"), standing, version: n as i64 };
        SmallBoard { entries: (0..entries).map(entry).collect(), version: 1 }
    }

    #[test]
    fn what_was_shown_longest_ago_is_forgotten_first() {
        let ahead = Ahead::default();
        let fit = MAX_ENTRIES / 1_000;
        for n in 0..fit as i32 {
            ahead.showed(key(n), 0, &board(1_000));
        }
        assert!(ahead.is_known(key(0)));
        ahead.showed(key(0), 0, &board(1_000));
        ahead.showed(key(fit as i32), 0, &board(1));
        assert!(ahead.is_known(key(0)) && !ahead.is_known(key(1)) && ahead.is_known(key(2)));
        for n in 0..MAX_BOARDS as i32 {
            ahead.showed(key(1_000 + n), 0, &board(1));
        }
        let known = (0..3_000).filter(|n| ahead.is_known(key(*n))).count();
        assert_eq!((known, ahead.is_known(key(1_000))), (MAX_BOARDS, true));
    }

    #[test]
    fn an_empty_board_is_ahead_of_nothing() {
        let ahead = Ahead::default();
        ahead.showed(key(1), 0, &board(0));
        assert!(!ahead.is_known(key(1)));
    }

    #[test]
    fn what_an_earlier_era_showed_is_waited_for_until_postgres_is_asked_again() {
        let ahead = Ahead::default();
        let known = || ahead.shown.load().get(&key(1)).map(|shown| shown.entries.len());
        ahead.showed(key(1), 0, &board(3));
        ahead.forget_older(key(1), 0);
        assert_eq!(known(), Some(3), "too large by now, in the same era");
        ahead.showed(key(1), 1, &board(2));
        ahead.showed(key(1), 0, &board(3));
        assert_eq!(known(), Some(2), "it was asked before the era");
        ahead.showed(key(1), 1, &board(0));
        assert_eq!(known(), Some(2));
        ahead.showed(key(1), 2, &board(0));
        assert_eq!(known(), None, "all of it is lost");
        ahead.showed(key(1), 2, &board(1));
        ahead.forget_older(key(1), 3);
        assert_eq!(known(), None, "what is left of it is too large");
    }
}
