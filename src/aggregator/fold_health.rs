//! What folding itself met, for `/readyz`: a question to the server now and then does not know that.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Failures that last for less are not told: a deadlock that was resolved, a connection that was replaced.
const TELL_AFTER: Duration = Duration::from_secs(3);

/// What each lane met last. Shared by all of a process.
#[derive(Debug, Default)]
pub struct FoldHealth(Mutex<[Option<(Instant, String)>; 2]>);

impl FoldHealth {
    /// A fold of `lane` failed.
    pub fn failed(&self, lane: i16, error: &str, now: Instant) {
        self.with(lane, |met| {
            let since = met.as_ref().map_or(now, |(since, _)| *since);
            *met = Some((since, error.to_owned()));
        });
    }

    /// A fold of `lane` was done, or there was nothing to do.
    pub fn worked(&self, lane: i16) {
        self.with(lane, |met| *met = None);
    }

    fn with(&self, lane: i16, change: impl FnOnce(&mut Option<(Instant, String)>)) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(met) = usize::try_from(lane).ok().and_then(|lane| all.get_mut(lane)) {
            change(met);
        }
    }

    /// Why folds fail, when that has lasted.
    pub fn trouble(&self, now: Instant) -> Option<String> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (since, error) = all.iter().flatten().min_by_key(|(since, _)| *since)?;
        let lasts = now.saturating_duration_since(*since);
        (lasts >= TELL_AFTER).then(|| format!("folds have failed for {} s: {error}", lasts.as_secs()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lane_that_fails_longest_is_told_until_it_works() {
        let (health, now) = (FoldHealth::default(), Instant::now());
        health.failed(0, "no", now);
        assert_eq!(health.trouble(now), None);
        let later = now + Duration::from_secs(5);
        health.failed(1, "never", later);
        health.failed(0, "still not", later);
        assert_eq!(health.trouble(later).unwrap(), "folds have failed for 5 s: still not");
        health.worked(0);
        assert_eq!(health.trouble(later), None);
        assert_eq!(health.trouble(later + TELL_AFTER).unwrap(), "folds have failed for 3 s: never");
    }
}
