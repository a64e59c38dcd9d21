//! What is stored, held against what was acknowledged: a figure of a run that lost something is not printed.

use super::BenchError;
use crate::store::pool::Pool;

/// Events and scores at one moment. Counting costs Postgres CPU: usage is read before.
#[derive(Debug, Clone, Copy)]
pub struct Stored {
    /// Rows, without those of the bare drain.
    events: u64,
    /// Scores that live entries have counted.
    plays: u64,
}

impl Stored {
    /// Counts.
    ///
    /// # Errors
    /// [`BenchError::Postgres`].
    pub async fn now(pool: &Pool) -> Result<Self, BenchError> {
        let (events, plays): (i64, i64) = sqlx::query_as(
            "SELECT (SELECT count(*) FROM events WHERE game_id > 0),
                    (SELECT coalesce(sum(e.plays), 0)::bigint FROM leaderboard_entries e
                       JOIN leaderboard_periods p ON p.id = e.period_id
                       JOIN leaderboards l ON l.live_generation_id = p.generation_id)",
        )
        .fetch_one(pool)
        .await?;
        Ok(Self { events: events.unsigned_abs(), plays: plays.unsigned_abs() })
    }

    /// Checks that since then exactly so much came, and nothing was given up.
    ///
    /// # Errors
    /// [`BenchError::Lost`].
    pub async fn grew_by(self, events: u64, plays: u64, pool: &Pool) -> Result<(), BenchError> {
        let now = Self::now(pool).await?;
        let expected = Self { events: self.events + events, plays: self.plays + plays };
        let dead: i64 = sqlx::query_scalar("SELECT count(*) FROM dead_letters").fetch_one(pool).await?;
        if (now.events, now.plays, dead) == (expected.events, expected.plays, 0) {
            return Ok(());
        }
        Err(BenchError::Lost(format!("{now:?} and {dead} dead letters, where {expected:?} were acknowledged")))
    }
}
