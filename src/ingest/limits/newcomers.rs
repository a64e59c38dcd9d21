//! Counts the addresses that Redis was told of for the first time, minute by minute.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::domain::rate::WINDOW_MS;

/// The minute (high half) and how many came in it (low half).
#[derive(Debug, Default)]
pub struct Newcomers(AtomicU64);

impl Newcomers {
    fn minute(now_ms: i64) -> u64 {
        u64::from(now_ms.div_euclid(WINDOW_MS) as u32) << 32
    }

    /// Counts one.
    pub fn add(&self, now_ms: i64) {
        let minute = Self::minute(now_ms);
        let add = |stored: u64| {
            let count = if stored >> 32 == minute >> 32 { stored & u64::from(u32::MAX) } else { 0 };
            Some(minute | (count + 1).min(u64::from(u32::MAX)))
        };
        let _ = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add);
    }

    /// How many came in this minute.
    pub fn lately(&self, now_ms: i64) -> u32 {
        let stored = self.0.load(Ordering::Relaxed);
        if stored >> 32 == Self::minute(now_ms) >> 32 { stored as u32 } else { 0 }
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
}
