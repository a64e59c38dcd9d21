//! Why Redis did not do what was asked, or could not answer.

use std::time::Duration;

/// Longest wait for a call in all, reconnecting included.
pub(super) const CALL_TIMEOUT: Duration = Duration::from_secs(3);

/// The ranking Redis did not do what was asked.
#[derive(Debug, Clone, thiserror::Error)]
pub enum RankingError {
    /// The URL is unusable.
    #[error("unusable Redis URL: {0}")]
    BadUrl(redis::RedisError),
    /// Refused, failed, or answered in a way this program does not know.
    #[error("ranking Redis: {0}")]
    Redis(#[from] redis::RedisError),
    /// No answer in time. Whether it happened is unknown; every operation is safe to repeat.
    #[error("ranking Redis did not answer within {CALL_TIMEOUT:?}")]
    TimedOut,
    /// The call was given up because this process stops.
    #[error("the call was given up")]
    Abandoned,
}

impl RankingError {
    /// Whether Redis refused because of what it holds of the one board that was asked for: a key of another type, or a
    /// value that a script cannot work with. What is the server's own (memory, a replica, loading, no answer) is not.
    pub fn is_of_one_board(&self) -> bool {
        let Self::Redis(error) = self else { return false };
        match error.code() {
            Some("WRONGTYPE") => true,
            // Raised by a script, or by a command in one.
            Some("ERR") => error.detail().is_some_and(|detail| detail.contains("user_script")),
            _ => false,
        }
    }
}

/// Why a board could not be read.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ReadError {
    /// The board is not in Redis (yet): answer from Postgres or `503 leaderboard_rebuilding`.
    #[error("the leaderboard is being rebuilt")]
    Rebuilding,
    /// Redis has lost a part of the board, so the rest says nothing: to be rebuilt ([`super::Ranking::mark_damaged`]),
    /// and until then answered like [`ReadError::Rebuilding`].
    #[error("Redis has lost a part of the leaderboard")]
    Damaged,
    /// Redis is away.
    #[error(transparent)]
    Unavailable(#[from] RankingError),
}
