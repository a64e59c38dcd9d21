//! Boards that were answered from Postgres while Redis did not have them, and of which Redis may show less for a moment:
//! a fold is in Postgres before it is published. Until all that was shown is published Postgres goes on answering, so that
//! no player sees a leaderboard go back.

use std::collections::HashMap;
use std::time::Duration;

use arc_swap::ArcSwap;
use moka::future::Cache;

use super::cache::BoardKey;
use crate::store::markers;
use crate::store::pool::Pool;

/// Most boards that are remembered; beyond that a board may be seen to go back for a moment.
const MAX_BOARDS: usize = 1_000;
/// Postgres is asked about a board no more often than this.
const ASK_EVERY: Duration = Duration::from_millis(100);

/// By board, the newest marker that waited when it was shown.
#[derive(Debug)]
pub struct Ahead {
    shown: ArcSwap<HashMap<BoardKey, i64>>,
    waiting: Cache<BoardKey, bool>,
}

impl Default for Ahead {
    fn default() -> Self {
        let waiting = Cache::builder().max_capacity(MAX_BOARDS as u64).time_to_live(ASK_EVERY).build();
        Self { shown: ArcSwap::default(), waiting }
    }
}

impl Ahead {
    /// Notes what was shown of a board, with the newest marker that waited after it was read.
    pub fn showed(&self, board: BoardKey, newest_marker: i64) {
        self.shown.rcu(|shown| {
            let mut shown = HashMap::clone(shown);
            if shown.len() < MAX_BOARDS || shown.contains_key(&board) {
                shown.insert(board, newest_marker);
            }
            shown
        });
    }

    /// Whether Redis has to be held against what was shown of this board. Nearly never, and cheap to ask.
    pub fn is_known(&self, board: BoardKey) -> bool {
        let shown = self.shown.load();
        !shown.is_empty() && shown.contains_key(&board)
    }

    /// Whether something that was shown is still not published. `false` also when Postgres does not say: then Redis is
    /// all there is.
    pub async fn waits(&self, board: BoardKey, pool: &Pool) -> bool {
        let Some(marker) = self.shown.load().get(&board).copied() else { return false };
        let ask = async {
            let mut connection = pool.acquire().await?;
            markers::up_to(&mut connection, Some(marker)).await.map(|(_, all_published)| !all_published)
        };
        if self.waiting.try_get_with(board, ask).await.unwrap_or(false) {
            return true;
        }
        self.shown.rcu(|shown| {
            let mut shown = HashMap::clone(shown);
            shown.remove(&board);
            shown
        });
        self.waiting.invalidate(&board).await;
        false
    }
}
