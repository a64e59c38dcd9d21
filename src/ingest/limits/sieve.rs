//! Lets the many players who send little pass without remembering any of them.

use std::sync::atomic::{AtomicU32, Ordering};

use crate::domain::rate::WINDOW_MS;

/// Slots; 4 MiB. Players share slots, so a slot's count is at least that of each of its players.
const SLOTS: usize = 1 << 20;
const COUNT_BITS: u32 = 24;
const MAX_COUNT: u32 = (1 << COUNT_BITS) - 1;

/// Counts of events by a hash of the player: the minute (8 bits) and the count (24 bits) of each slot.
///
/// Two requests at once on one slot may lose each other's counts; a player who sends enough to matter is then noticed
/// a request later.
#[derive(Debug)]
pub struct Sieve {
    slots: Vec<AtomicU32>,
}

impl Sieve {
    /// All slots empty.
    pub fn new() -> Self {
        Self { slots: (0..SLOTS).map(|_| AtomicU32::new(0)).collect() }
    }

    /// Counts `events` of the player with hash `key`; returns how many the slot had lately. A minute later half of a
    /// count is left, after two minutes nothing.
    pub fn add(&self, key: u64, events: u32, now_ms: i64) -> u32 {
        let minute = (now_ms.div_euclid(WINDOW_MS) & 0xff) as u32;
        let slot = &self.slots[key as usize % SLOTS];
        let stored = slot.load(Ordering::Relaxed);
        let before = match minute.wrapping_sub(stored >> COUNT_BITS) & 0xff {
            0 => stored & MAX_COUNT,
            1 => (stored & MAX_COUNT) / 2,
            _ => 0,
        };
        let after = before.saturating_add(events).min(MAX_COUNT);
        slot.store(minute << COUNT_BITS | after, Ordering::Relaxed);
        before
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_fade_with_the_minutes() {
        let sieve = Sieve::new();
        let start = 1_000 * WINDOW_MS;
        assert_eq!((sieve.add(7, 10, start), sieve.add(7, 5, start + 1)), (0, 10));
        assert_eq!(sieve.add(8, 1, start), 0, "another slot");
        assert_eq!(sieve.add(7, 1, start + WINDOW_MS), 7, "half of 15");
        assert_eq!(sieve.add(7, 1, start + 3 * WINDOW_MS), 0);
        assert_eq!(sieve.add(7, u32::MAX, start + 3 * WINDOW_MS), 1);
        assert_eq!(sieve.add(7, 1, start + 3 * WINDOW_MS), MAX_COUNT, "no overflow into the minute");
    }
}
