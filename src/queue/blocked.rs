//! Jobs that are set aside: how long, and what is shown of them.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use super::client::{Queue, QueueError};
use super::scripts::BLOCKED;
use super::trouble::cut;
use crate::domain::clock::Micros;
use crate::domain::ids::GameId;
use crate::domain::retry::RetryPolicy;

/// How long a job is set aside: 2 s at first, a minute at most.
pub(super) const SET_ASIDE: RetryPolicy = RetryPolicy {
    max_attempts: u32::MAX,
    first_delay: Duration::from_secs(2),
    longest_delay: Duration::from_secs(50),
    jitter: 0.2,
};
/// A job that is set aside is tried again within a minute: what was noted longer ago is over.
const OVER_AFTER_SECONDS: i64 = 90;

/// A game with a job that is set aside: it fails while others succeed, for a reason that is not known to be its data's
/// fault. It is tried again by itself and costs no attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockedGame {
    /// Which game.
    pub game: GameId,
    /// One job of it.
    pub job: String,
    /// What its last attempt met.
    pub error: String,
    /// When that was (Redis's clock).
    pub at: Micros,
}

impl Queue {
    /// Games that have jobs which are set aside, as of `now` (Redis's clock, [`super::status::QueueStatus::at`]).
    ///
    /// # Errors
    /// Redis cannot be reached.
    pub(super) async fn blocked(&self, now: Micros) -> Result<Vec<BlockedGame>, QueueError> {
        let mut connection = self.connection().clone();
        let noted: HashMap<String, String> =
            redis::cmd("HGETALL").arg(self.keys().blocked()).query_async(&mut connection).await?;
        let mut games: Vec<BlockedGame> = noted.iter().filter_map(|(game, note)| read(game, note)).collect();
        games.retain(|blocked| now.since(blocked.at) < OVER_AFTER_SECONDS * 1_000_000);
        games.sort_by_key(|blocked| blocked.game);
        Ok(games)
    }

    /// Forgets what was noted of jobs that are done now. Best effort; a game that has more of them is noted again.
    pub(super) async fn note_unblocked(&self, done: &[&str]) {
        let (mut connection, key) = (self.connection().clone(), self.keys().blocked());
        let forget = async {
            let noted: HashMap<String, String> = redis::cmd("HGETALL").arg(&key).query_async(&mut connection).await?;
            let over = noted.iter().filter(|(_, note)| note.split(' ').nth(1).is_some_and(|job| done.contains(&job)));
            let over: Vec<&String> = over.map(|(game, _)| game).collect();
            if over.is_empty() {
                return Ok(());
            }
            redis::cmd("HDEL").arg(&key).arg(over).exec_async(&mut connection).await
        };
        if let Err(error) = forget.await {
            tracing::debug!(%error, "could not forget which jobs were set aside");
        }
    }

    /// Notes jobs that were just set aside. Best effort: it is for people.
    pub(super) async fn note_blocked(&self, jobs: &BTreeMap<GameId, (String, String)>) {
        let mut call = BLOCKED.keys([self.keys().blocked()]);
        for (game, (job, error)) in jobs {
            call.push((game.0, job, cut(error)));
        }
        if let Err(error) = call.run::<i64>(&mut self.connection().clone()).await {
            tracing::debug!(%error, "could not note which jobs are set aside");
        }
    }
}

fn read(game: &str, note: &str) -> Option<BlockedGame> {
    let mut parts = note.splitn(3, ' ');
    let at = Micros(parts.next()?.parse().ok()?);
    let (job, error) = (parts.next()?.to_owned(), parts.next()?.to_owned());
    Some(BlockedGame { game: GameId(game.parse().ok()?), job, error, at })
}
