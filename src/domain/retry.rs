//! When a failed job runs again. Pure: the caller brings the randomness.

use std::time::Duration;

/// How often and when a kind of job is tried again.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RetryPolicy {
    /// Attempts in all, the first one included.
    pub max_attempts: u32,
    /// Delay before the second attempt; doubles with each further one.
    pub first_delay: Duration,
    /// Longest delay, before jitter.
    pub longest_delay: Duration,
    /// Jitter as a share of the delay: 0.2 is ±20 %.
    pub jitter: f64,
}

impl Default for RetryPolicy {
    /// Three attempts, 2 s and 4 s apart, ±20 %.
    fn default() -> Self {
        Self {
            max_attempts: 3,
            first_delay: Duration::from_secs(2),
            longest_delay: Duration::from_secs(3600),
            jitter: 0.2,
        }
    }
}

impl RetryPolicy {
    /// How long to wait after `attempts` failed ones (1: the first), or `None` when that was the last.
    /// `random` is uniform in `0.0..1.0`.
    pub fn delay_after(&self, attempts: u32, random: f64) -> Option<Duration> {
        (attempts < self.max_attempts).then(|| self.spread(self.doubled(attempts), random))
    }

    /// How long a job waits that met a dependency which was down, the `streak`-th time in a row (1: the first).
    pub fn pause(&self, streak: u32, random: f64) -> Duration {
        self.spread(self.doubled(streak), random)
    }

    fn doubled(&self, nth: u32) -> Duration {
        let factor = 1u32.checked_shl(nth.saturating_sub(1)).unwrap_or(u32::MAX);
        self.first_delay.saturating_mul(factor).min(self.longest_delay)
    }

    fn spread(&self, delay: Duration, random: f64) -> Duration {
        let random = if random.is_finite() { random.clamp(0.0, 1.0) } else { 0.5 };
        delay.mul_f64(1.0 + self.jitter.clamp(0.0, 1.0) * (2.0 * random - 1.0))
    }
}

/// Growing pauses between repeats that cost nobody an attempt: each twice as long as the one before, up to a longest.
#[derive(Debug, Clone)]
pub struct Backoff {
    first: Duration,
    longest: Duration,
    repeats: u32,
}

impl Backoff {
    /// Pauses from `first` to `longest`.
    pub const fn new(first: Duration, longest: Duration) -> Self {
        Self { first, longest, repeats: 0 }
    }

    /// The next pause.
    pub fn pause(&mut self) -> Duration {
        let factor = 1u32.checked_shl(self.repeats).unwrap_or(u32::MAX);
        self.repeats = self.repeats.saturating_add(1);
        self.first.saturating_mul(factor).min(self.longest)
    }

    /// Pauses since the last success.
    pub const fn repeats(&self) -> u32 {
        self.repeats
    }

    /// It worked: the next pause is the first one again.
    pub fn reset(&mut self) {
        self.repeats = 0;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn delays_double_from_two_seconds_and_end_after_the_last_attempt() {
        let policy = RetryPolicy::default();
        assert_eq!(policy.delay_after(1, 0.5), Some(Duration::from_secs(2)));
        assert_eq!(policy.delay_after(2, 0.5), Some(Duration::from_secs(4)));
        assert_eq!(policy.delay_after(3, 0.5), None);
    }

    #[test]
    fn pauses_double_up_to_the_longest_and_begin_anew_after_success() {
        let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(2));
        let pauses: Vec<u128> = (0..8).map(|_| backoff.pause().as_millis()).collect();
        assert_eq!(pauses, [50, 100, 200, 400, 800, 1_600, 2_000, 2_000]);
        assert_eq!(backoff.repeats(), 8);
        backoff.reset();
        assert_eq!((backoff.repeats(), backoff.pause().as_millis()), (0, 50));
        let mut for_ever = Backoff { repeats: u32::MAX, ..backoff };
        assert_eq!(for_ever.pause(), Duration::from_secs(2));
    }

    proptest! {
        #[test]
        fn a_delay_is_within_a_fifth_of_its_nominal_value(attempts in 1u32..64, random in 0.0f64..1.0) {
            let policy = RetryPolicy { max_attempts: 64, ..RetryPolicy::default() };
            let nominal = (2f64 * 2f64.powi(attempts as i32 - 1)).min(3600.0);
            let delay = policy.delay_after(attempts, random).unwrap().as_secs_f64();
            prop_assert!((nominal * 0.799..=nominal * 1.201).contains(&delay), "{delay} of {nominal}");
        }

        #[test]
        fn no_input_panics(attempts in any::<u32>(), random in any::<f64>(), jitter in any::<f64>()) {
            let policy = RetryPolicy { max_attempts: u32::MAX, jitter, ..RetryPolicy::default() };
            let _ = policy.delay_after(attempts, random);
            let _ = policy.pause(attempts, random);
        }
    }
}
