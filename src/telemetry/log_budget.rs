//! A bound on log lines that anybody outside can cause: so many a second, and a word about those left out.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Lines a second: enough to see what happens, whoever makes it happen and however often.
const LINES: u32 = 5;
/// How long that many lines must do.
const SECOND: Duration = Duration::from_secs(1);

/// Lines of one kind, for one process.
#[derive(Debug, Default)]
pub struct LogBudget(Mutex<Spent>);

#[derive(Debug, Default)]
struct Spent {
    /// When the present second began: with its first line.
    second: Option<Instant>,
    lines: u32,
    left_out: u64,
}

impl LogBudget {
    /// A budget of which nothing is spent.
    pub const fn new() -> Self {
        Self(Mutex::new(Spent { second: None, lines: 0, left_out: 0 }))
    }

    /// Whether one more line may be written at `now`, and how many were left out since the last one. Whoever asks may
    /// be late.
    pub fn admit(&self, now: Instant) -> Option<u64> {
        let mut spent = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if spent.second.is_none_or(|began| now.saturating_duration_since(began) >= SECOND) {
            (spent.second, spent.lines) = (Some(now), 0);
        }
        if spent.lines == LINES {
            spent.left_out += 1;
            return None;
        }
        spent.lines += 1;
        Some(std::mem::take(&mut spent.left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_costs_a_few_lines_a_second_and_says_what_it_left_out() {
        let (budget, start) = (LogBudget::default(), Instant::now());
        let admitted = |millis: u64, lines: u32| {
            let now = start + Duration::from_millis(millis);
            (0..lines).filter_map(|_| budget.admit(now)).collect::<Vec<_>>()
        };
        assert_eq!(admitted(0, LINES + 4), vec![0; LINES as usize]);
        assert!(admitted(999, 3).is_empty());
        assert_eq!(admitted(1_000, 3), [7, 0, 0]);
        assert_eq!(admitted(7_500, LINES), vec![0; LINES as usize]);
    }

    #[test]
    fn only_a_later_second_brings_new_lines() {
        let (budget, start) = (LogBudget::default(), Instant::now());
        let admit = |second: u64| budget.admit(start + Duration::from_secs(second));
        assert_eq!((0..LINES).filter_map(|_| admit(100)).count(), LINES as usize);
        // Requests that began at different times end mixed.
        for second in [99, 100, 98, 100, 99, 0] {
            assert_eq!(admit(second), None, "{second}");
        }
        assert_eq!(admit(101), Some(6));
        assert_eq!((0..LINES).filter_map(|_| admit(101)).count(), LINES as usize - 1);
    }
}
