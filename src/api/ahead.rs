//! Boards that were answered from Postgres while Redis did not have them, and of which Redis may show less for
//! a moment: a fold is in Postgres before it is published. Until all that was shown is published Postgres goes
//! on answering, so that no player sees a leaderboard go back. What others wait for to be published keeps no
//! board waiting.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use moka::future::Cache;

use super::cache::BoardKey;
use crate::domain::fact::shard_of;
use crate::domain::ids::BoardGenerationId;
use crate::ranking::{BoardPeriod, HeldEntry, Ranking, ReadError};
use crate::store::standings::SmallBoard;

/// Most boards that are remembered; beyond that a board may be seen to go back for a moment.
const MAX_BOARDS: usize = 1_000;
/// Redis is asked about a board no more often than this.
const ASK_EVERY: Duration = Duration::from_millis(100);

/// Of each fold shard the entry that changed last, with its version. Folds of a shard are published in their order, so
/// what Redis shows of these it shows of all.
type Newest = Arc<[(String, i64)]>;

/// What was shown, by board.
#[derive(Debug)]
pub struct Ahead {
    shown: ArcSwap<HashMap<BoardKey, Newest>>,
    waiting: Cache<BoardKey, bool>,
}

impl Default for Ahead {
    fn default() -> Self {
        let waiting = Cache::builder().max_capacity(MAX_BOARDS as u64).time_to_live(ASK_EVERY).build();
        Self { shown: ArcSwap::default(), waiting }
    }
}

fn newest(generation: BoardGenerationId, board: &SmallBoard) -> Newest {
    let mut newest: BTreeMap<u16, (&str, i64)> = BTreeMap::new();
    for entry in &board.entries {
        let latest = newest.entry(shard_of(generation, &entry.player_id)).or_insert((&entry.player_id, entry.version));
        if latest.1 < entry.version {
            *latest = (&entry.player_id, entry.version);
        }
    }
    newest.into_values().map(|(player, version)| (player.to_owned(), version)).collect()
}

impl Ahead {
    /// Notes what was shown of a board.
    pub fn showed(&self, key: BoardKey, generation: BoardGenerationId, board: &SmallBoard) {
        let newest = newest(generation, board);
        if newest.is_empty() {
            return;
        }
        self.shown.rcu(|shown| {
            let mut shown = HashMap::clone(shown);
            if shown.len() < MAX_BOARDS || shown.contains_key(&key) {
                shown.insert(key, Arc::clone(&newest));
            }
            shown
        });
    }

    /// Postgres went back in time: what it has lost is never published, and waiting for that would be for ever.
    pub fn forget(&self) {
        self.shown.store(Arc::default());
        self.waiting.invalidate_all();
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
        let Some(newest) = self.shown.load().get(&key).cloned() else { return Ok(false) };
        let ask = async {
            let players: Vec<&str> = newest.iter().map(|(player, _)| player.as_str()).collect();
            let held = ranking.held(board, &players).await?;
            if !held.whole {
                return Err(ReadError::Damaged);
            }
            Ok(newest.iter().zip(&held.entries).any(|((_, shown), held)| is_behind(held.as_ref(), *shown)))
        };
        if self.waiting.try_get_with(key, ask).await.map_err(|error| ReadError::clone(&error))? {
            return Ok(true);
        }
        self.shown.rcu(|shown| {
            let mut shown = HashMap::clone(shown);
            // What was shown meanwhile is another matter.
            if shown.get(&key).is_some_and(|now| Arc::ptr_eq(now, &newest)) {
                shown.remove(&key);
            }
            shown
        });
        self.waiting.invalidate(&key).await;
        Ok(false)
    }
}

fn is_behind(held: Option<&HeldEntry>, shown: i64) -> bool {
    held.is_none_or(|held| held.version < shown)
}
