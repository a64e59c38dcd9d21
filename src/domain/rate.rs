//! Limits of requests and events over time, as arithmetic on a clock that is passed in.
//!
//! The counts that matter are in Redis (`queue/enqueue/enqueue.lua` has the same rules); these are for what a process
//! keeps to itself.

/// The length of every window, in milliseconds.
pub const WINDOW_MS: i64 = 60_000;

/// Events counted here that Redis does not know of yet, and what Redis said last.
///
/// Asking Redis of every player in every request would cost more than the rest of ingest, so a replica holds counts
/// back while a player is far below the limit. The slack: with R replicas a player may pass at most `R × limit / 20`
/// events more than the limit; a single replica is exact. Limits below 20 always ask.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct HeldCount {
    /// Events since Redis was last asked.
    held: u32,
    /// When the first of them came.
    held_since: i64,
    /// What Redis said was used.
    known: u32,
    /// When that window ends.
    known_until: i64,
}

impl HeldCount {
    /// Before a request of `new` events: takes out the events held so far when Redis must be asked now, to be counted
    /// with the new ones (and given back with [`HeldCount::hold`] should that fail). `None`: it need not be asked yet.
    pub fn take_due(&mut self, new: u32, limit: u32, now_ms: i64) -> Option<u32> {
        let held = self.held(now_ms);
        let asks = limit < 20 || held.saturating_add(new) >= limit / 20 || self.used(now_ms) > limit / 2;
        asks.then(|| {
            self.held = 0;
            held
        })
    }

    /// Events were accepted without asking Redis.
    pub fn hold(&mut self, events: u32, now_ms: i64) {
        let held = self.held(now_ms);
        if held == 0 {
            self.held_since = now_ms;
        }
        self.held = held.saturating_add(events);
    }

    /// Redis was asked: it knows `used` in a window that ends in `reset_ms`.
    pub fn synchronise(&mut self, used: u32, reset_ms: u64, now_ms: i64) {
        self.known = used;
        self.known_until = now_ms.saturating_add(i64::try_from(reset_ms).unwrap_or(WINDOW_MS));
    }

    /// Events used as far as this replica knows.
    pub fn used(&self, now_ms: i64) -> u32 {
        let known = if now_ms < self.known_until { self.known } else { 0 };
        known.saturating_add(self.held(now_ms))
    }

    /// Milliseconds until its window ends.
    pub fn reset_ms(&self, now_ms: i64) -> i64 {
        let until = self.known_until.max(if self.held > 0 { self.held_since + WINDOW_MS } else { 0 });
        (until - now_ms).clamp(0, WINDOW_MS)
    }

    /// Whether it says nothing any more.
    pub fn is_stale(&self, now_ms: i64) -> bool {
        self.held(now_ms) == 0 && now_ms >= self.known_until
    }

    fn held(&self, now_ms: i64) -> u32 {
        if now_ms - self.held_since < WINDOW_MS { self.held } else { 0 }
    }
}

/// A count in a window that begins with its first use: the local limiter while Redis is away, and the limit on failed
/// guesses at keys.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct WindowCount {
    count: u32,
    since: i64,
}

impl WindowCount {
    /// Counts one; says whether it is still within `limit`.
    pub fn count(&mut self, limit: u32, now_ms: i64) -> bool {
        if self.is_stale(now_ms) {
            *self = Self { count: 0, since: now_ms };
        }
        self.count = self.count.saturating_add(1);
        self.count <= limit
    }

    /// Milliseconds until its window has passed.
    pub fn ends_in_ms(&self, now_ms: i64) -> u64 {
        u64::try_from((self.since + WINDOW_MS - now_ms).clamp(0, WINDOW_MS)).unwrap_or_default()
    }

    /// Whether its window has passed.
    pub fn is_stale(&self, now_ms: i64) -> bool {
        self.count == 0 || now_ms - self.since >= WINDOW_MS || now_ms < self.since
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redis_is_asked_at_a_twentieth_and_always_past_half() {
        let mut count = HeldCount::default();
        assert_eq!(count.take_due(99, 2_000, 0), None);
        count.hold(99, 0);
        assert_eq!(count.take_due(1, 2_000, 0), Some(99));
        count.synchronise(1_001, 50_000, 0);
        assert_eq!((count.take_due(1, 2_000, 0), count.used(0)), (Some(0), 1_001));
        assert_eq!(count.take_due(1, 2_000, 50_000), None, "the window has passed");
        assert!(count.is_stale(50_000));
    }

    #[test]
    fn small_limits_always_ask() {
        assert_eq!(HeldCount::default().take_due(1, 19, 0), Some(0));
    }

    #[test]
    fn no_event_is_told_twice_and_none_is_forgotten() {
        let mut count = HeldCount::default();
        count.hold(10, 0);
        assert_eq!(count.take_due(100, 2_000, 0), Some(10));
        assert_eq!(count.take_due(100, 2_000, 0), Some(0), "another request at the same time");
        count.hold(10, 1);
        count.synchronise(110, 60_000, 2);
        assert_eq!(count.used(2), 120, "the first call failed and gave back what it took");
    }

    #[test]
    fn a_window_count_lets_exactly_the_limit_pass() {
        let mut count = WindowCount::default();
        let passed = (0..10).filter(|i| count.count(7, *i)).count();
        assert_eq!(passed, 7);
        assert!(count.count(7, WINDOW_MS));
    }
}
