//! A bound on log lines that anybody outside can cause: so many a second, and a word about those left out.

use std::sync::Mutex;
use std::sync::PoisonError;

use crate::domain::clock::Micros;

/// Lines a second: enough to see what happens, whoever makes it happen and however often.
const LINES: u32 = 5;
/// Who asks may be late, by as long as a request takes. A second that is earlier than the newest by more than this is
/// a clock that was set back.
const LATE_SECONDS: i64 = 60;

/// Lines of one kind, for one process.
#[derive(Debug, Default)]
pub struct LogBudget(Mutex<Spent>);

#[derive(Debug, Default)]
struct Spent {
    second: i64,
    lines: u32,
    left_out: u64,
}

impl LogBudget {
    /// A budget of which nothing is spent.
    pub const fn new() -> Self {
        Self(Mutex::new(Spent { second: 0, lines: 0, left_out: 0 }))
    }

    /// Whether one more line may be written at `now`, and how many were left out since the last one.
    pub fn admit(&self, now: Micros) -> Option<u64> {
        let second = now.0.div_euclid(1_000_000);
        let mut spent = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if second > spent.second || spent.second - second > LATE_SECONDS {
            (spent.second, spent.lines) = (second, 0);
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
        let budget = LogBudget::default();
        let admitted = |second: i64, lines: u32| {
            (0..lines).filter_map(|_| budget.admit(Micros(second * 1_000_000 + 5))).collect::<Vec<_>>()
        };
        assert_eq!(admitted(1, LINES + 7), vec![0; LINES as usize]);
        assert_eq!(admitted(2, 3), [7, 0, 0]);
        assert_eq!(admitted(3, LINES), vec![0; LINES as usize]);
    }

    #[test]
    fn only_a_later_second_brings_new_lines() {
        let budget = LogBudget::default();
        let admit = |second: i64| budget.admit(Micros(second * 1_000_000));
        assert_eq!((0..LINES).filter_map(|_| admit(100)).count(), LINES as usize);
        // Requests that began at different times end mixed.
        for second in [99, 100, 98, 100, 99, 100 - LATE_SECONDS] {
            assert_eq!(admit(second), None, "{second}");
        }
        assert_eq!(admit(101), Some(6));
        assert_eq!((0..LINES).filter_map(|_| admit(101)).count(), LINES as usize - 1);
        assert_eq!(admit(40), Some(1), "the clock was set back");
    }
}
