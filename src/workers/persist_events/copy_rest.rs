//! Circuit breaker for COPY: a group that contains a stored row is written twice. After several of those the careful
//! way is cheaper for a while.

use std::time::Duration;

use tokio::time::Instant;

use super::transaction::Way;

/// How long COPY rests after too many groups held a stored row.
const REST: Duration = Duration::from_secs(5);
/// COPY rests when more than one group in this many met a stored row (docs/rules.md#jobs-are-written-together).
const TOLERANCE: u32 = 5;

/// What one writer's groups met lately.
#[derive(Debug, Default)]
pub struct CopyRest {
    groups: u32,
    violations: u32,
    until: Option<Instant>,
}

impl CopyRest {
    /// How to write rows that are expected to be new.
    pub fn way(&self, now: Instant) -> Way {
        if self.until.is_some_and(|until| now < until) { Way::Careful } else { Way::Copy }
    }

    /// Counts a COPY; too many that met a stored row let it rest.
    pub fn note(&mut self, met_stored: bool, now: Instant) {
        self.groups += 1;
        self.violations += u32::from(met_stored);
        if self.groups >= TOLERANCE {
            if self.violations > 1 {
                self.until = Some(now + REST);
            }
            (self.groups, self.violations) = (0, 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copy_rests_above_one_violation_in_five_groups() {
        let (mut copy, now) = (CopyRest::default(), Instant::now());
        for met_stored in [true, false, false, false, false, true, false, false, false, false] {
            copy.note(met_stored, now);
            assert_eq!(copy.way(now), Way::Copy, "one in five is no reason");
        }
        for met_stored in [true, false, false, true, false] {
            assert_eq!(copy.way(now), Way::Copy);
            copy.note(met_stored, now);
        }
        assert_eq!((copy.way(now), copy.way(now + REST)), (Way::Careful, Way::Copy));
    }
}
