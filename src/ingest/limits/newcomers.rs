//! Counts the addresses that Redis was told of for the first time, minute by minute.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::domain::rate::WINDOW_MS;

/// A request that began this many minutes ago is none: the clock was set back.
const TOO_LATE: u32 = 10;

/// The minute (high half) and how many came in it (low half).
#[derive(Debug, Default)]
pub struct Newcomers(AtomicU64);

impl Newcomers {
    /// The minute that `now_ms` counts in, and how many came in it. `now_ms` is when a request began: one that ends
    /// late counts in the newest minute, or an old one would begin anew, again and again, and nothing would be bounded.
    fn at(stored: u64, now_ms: i64) -> (u32, u32) {
        let (newest, count) = ((stored >> 32) as u32, stored as u32);
        let minute = now_ms.div_euclid(WINDOW_MS) as u32;
        if newest.wrapping_sub(minute) < TOO_LATE { (newest, count) } else { (minute, 0) }
    }

    /// Counts one.
    pub fn add(&self, now_ms: i64) {
        let add = |stored: u64| {
            let (minute, count) = Self::at(stored, now_ms);
            Some(u64::from(minute) << 32 | u64::from(count.saturating_add(1)))
        };
        let _ = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add);
    }

    /// How many came in this minute.
    pub fn lately(&self, now_ms: i64) -> u32 {
        Self::at(self.0.load(Ordering::Relaxed), now_ms).1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_minute_counts_anew() {
        let newcomers = Newcomers::default();
        let now = 1_000 * WINDOW_MS;
        for _ in 0..3 {
            newcomers.add(now);
        }
        assert_eq!((newcomers.lately(now + 1), newcomers.lately(now + WINDOW_MS)), (3, 0));
        newcomers.add(now + WINDOW_MS);
        assert_eq!(newcomers.lately(now + WINDOW_MS), 1);
    }

    #[test]
    fn a_request_that_ends_late_does_not_begin_the_minute_anew() {
        let newcomers = Newcomers::default();
        let now = 1_000 * WINDOW_MS;
        for _ in 0..3 {
            newcomers.add(now);
            newcomers.add(now - 1);
        }
        assert_eq!((newcomers.lately(now), newcomers.lately(now - 1)), (6, 6));
        // Not for ever, should the clock have been wrong.
        newcomers.add(now - 100 * WINDOW_MS);
        assert_eq!(newcomers.lately(now - 100 * WINDOW_MS), 1);
    }
}
