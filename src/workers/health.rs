//! What the worker's own work met, for `/readyz`: a question to the server now and then does not know that.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::domain::ids::GameId;

/// A failure that lasts for less is not told: a deadlock that was resolved, a connection that was replaced.
const TELL_AFTER: Duration = Duration::from_secs(1);
/// A job that is set aside is tried again within a minute: what was noted longer ago is over.
const OVER_AFTER: Duration = Duration::from_secs(90);

/// What writers met lately. Shared by all of a process.
#[derive(Debug, Default)]
pub struct WorkHealth(Mutex<Met>);

#[derive(Debug, Default)]
struct Met {
    /// Since when nothing could be written, and what was met last.
    failing: Option<(Instant, String)>,
    /// Games with jobs that are set aside: when last, and why.
    blocked: BTreeMap<GameId, (Instant, String)>,
}

impl WorkHealth {
    fn lock(&self) -> std::sync::MutexGuard<'_, Met> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Nothing can be written: all wait.
    pub fn failing(&self, error: &str, now: Instant) {
        let mut met = self.lock();
        let since = met.failing.as_ref().map_or(now, |(since, _)| *since);
        met.failing = Some((since, error.to_owned()));
    }

    /// Whether the last that was heard is that nothing can be written.
    pub fn is_failing(&self) -> bool {
        self.lock().failing.is_some()
    }

    /// Something was written.
    pub fn working(&self) {
        self.lock().failing = None;
    }

    /// A job of `game` was set aside.
    pub fn blocked(&self, game: GameId, error: &str, now: Instant) {
        self.lock().blocked.insert(game, (now, error.to_owned()));
    }

    /// A job of `game` that was set aside is done.
    pub fn unblocked(&self, game: GameId) {
        self.lock().blocked.remove(&game);
    }

    /// Why nothing can be written, when that has lasted.
    pub fn trouble(&self, now: Instant) -> Option<String> {
        let met = self.lock();
        let (since, error) = met.failing.as_ref()?;
        let lasts = now.saturating_duration_since(*since);
        (lasts >= TELL_AFTER).then(|| format!("nothing could be written for {} s: {error}", lasts.as_secs()))
    }

    /// Which games have jobs that are set aside, and why one of them is.
    pub fn set_aside(&self, now: Instant) -> Option<String> {
        let mut met = self.lock();
        met.blocked.retain(|_, (at, _)| now.saturating_duration_since(*at) < OVER_AFTER);
        let (game, (_, error)) = met.blocked.iter().next()?;
        let others = match met.blocked.len() {
            1 => String::new(),
            games => format!(" (and of {} other games)", games - 1),
        };
        Some(format!("jobs of game {game} are set aside{others}: {error}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_trouble_that_lasts_is_told_and_success_ends_it() {
        let (health, now) = (WorkHealth::default(), Instant::now());
        health.failing("read-only", now);
        assert_eq!(health.trouble(now), None);
        let later = now + Duration::from_secs(3);
        health.failing("still read-only", later);
        assert_eq!(health.trouble(later).unwrap(), "nothing could be written for 3 s: still read-only");
        health.working();
        assert_eq!(health.trouble(later), None);
    }

    #[test]
    fn a_game_that_is_set_aside_is_named_until_it_works_or_is_heard_of_no_more() {
        let (health, now) = (WorkHealth::default(), Instant::now());
        health.blocked(GameId(7), "no", now);
        assert_eq!(health.set_aside(now).unwrap(), "jobs of game 7 are set aside: no");
        health.blocked(GameId(9), "never", now);
        assert!(health.set_aside(now).unwrap().contains("and of 1 other games"));
        health.unblocked(GameId(7));
        assert_eq!(health.set_aside(now).unwrap(), "jobs of game 9 are set aside: never");
        assert_eq!(health.set_aside(now + OVER_AFTER), None);
    }
}
