//! Boards that Redis shows under an earlier version than this process has shown. Cron is told of one that stays so,
//! whatever the cause: else only its next score gives it a later version.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use moka::future::Cache;
use tokio::time::Instant;

use crate::domain::ids::BoardGenerationId;

/// A fold that Postgres shows is published within this time, as a rule.
const PUBLISHED_WITHIN: Duration = Duration::from_secs(1);
/// Cron is told of a board no more often than this.
const TELL_EVERY: Duration = Duration::from_secs(10);
/// A board that nobody reads for so long is forgotten.
const READ_WITHIN: Duration = Duration::from_secs(86_400);

/// Boards that are behind, and when cron is to be told of each.
pub struct Behind(Cache<BoardGenerationId, Arc<Mutex<Instant>>>);

impl Default for Behind {
    fn default() -> Self {
        Self(Cache::builder().max_capacity(1_000).time_to_idle(READ_WITHIN).build())
    }
}

impl Behind {
    /// A board was seen behind. Whether cron is to be told now: it was seen so before, however long ago, and not as it
    /// should be since.
    pub async fn is_due(&self, generation: BoardGenerationId, now: Instant) -> bool {
        let first = async { Arc::new(Mutex::new(now + PUBLISHED_WITHIN)) };
        let next = self.0.get_with(generation, first).await;
        let mut next = next.lock().unwrap_or_else(PoisonError::into_inner);
        let is_due = now >= *next;
        if is_due {
            *next = now + TELL_EVERY;
        }
        is_due
    }

    /// Redis shows a board under what this process has shown, or later.
    pub async fn caught_up(&self, generation: BoardGenerationId) {
        if self.0.contains_key(&generation) {
            Box::pin(self.0.invalidate(&generation)).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn cron_is_told_of_a_board_that_stays_behind_however_rarely_it_is_read() {
        let (behind, board, other) = (Behind::default(), BoardGenerationId(1), BoardGenerationId(2));
        let began = Instant::now();
        let is_due = async |board, millis| behind.is_due(board, began + Duration::from_millis(millis)).await;
        assert!(!is_due(board, 0).await && !is_due(board, 900).await, "it is about to be published");
        assert!(is_due(board, 60_000).await && !is_due(board, 61_000).await);
        assert!(is_due(board, 120_000).await, "nobody has rebuilt it");
        assert!(!is_due(other, 120_000).await);
        // Behind another time, and not still.
        behind.caught_up(board).await;
        assert!(!is_due(board, 180_000).await && is_due(board, 240_000).await);
    }
}
