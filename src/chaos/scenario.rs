//! When a run plays: now, or at an edge of the calendar, with every process's clock set ahead.

use jiff::tz::TimeZone;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::domain::clock::{Clock, Micros};
use crate::domain::month::Month;
use crate::runtime::clock;

/// How far ahead of the clock an event may be in a run: less than ingest accepts, so that a process whose clock jumps
/// back accepts it too.
const AHEAD_SECONDS: i64 = 240;
/// How old an event may be in a run: less than ingest accepts, likewise.
const OLDEST_SECONDS: i64 = 6 * 86_400 + 20 * 3_600;

/// An edge of the calendar in the middle of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Edge {
    /// No edge: the time is the real one, so periods end and close during the run.
    None,
    /// The end of a month.
    Month,
    /// The end of 29 February.
    LeapDay,
    /// Midnight is skipped in Havana.
    ClocksForward,
    /// Midnight comes twice in Havana.
    ClocksBack,
}

impl Edge {
    /// When it comes next after `now`; `None`: not within the known calendar.
    fn next(self, now: Micros) -> Option<Micros> {
        match self {
            Self::None => None,
            Self::Month => Some(Month::of(now).ends_at()),
            Self::LeapDay => {
                let months = std::iter::successors(Some(Month::of(now)), |month| Some(month.next()));
                months.take(12 * 9).find(|month| month.ends_with_a_leap_day()).map(Month::ends_at)
            }
            Self::ClocksForward => clocks_change(now, true),
            Self::ClocksBack => clocks_change(now, false),
        }
    }
}

/// When clocks in Havana are next put forward, or back: at a midnight, which is skipped or comes a second time.
fn clocks_change(now: Micros, forward: bool) -> Option<Micros> {
    let zone = TimeZone::get("America/Havana").ok()?;
    let mut changes = zone.following(now.to_timestamp()).take(8).map(|change| change.timestamp());
    let at = changes.find(|at| {
        let before = zone.to_offset(*at - jiff::SignedDuration::from_secs(1));
        let after = zone.to_offset(*at);
        if forward { after > before } else { after < before }
    })?;
    Some(at.into())
}

/// When a run plays.
#[derive(Debug, Clone)]
pub struct Scenario {
    /// What happens in the middle of it.
    pub edge: Edge,
    /// How far every process's clock is set ahead, in seconds.
    pub ahead: i64,
    /// That clock.
    pub clock: Clock,
    /// Moments of early and late events.
    pub moments: Vec<Micros>,
}

impl Scenario {
    /// The scenario of `seed`, for a run of `seconds`. Clocks are only set `shiftable`.
    pub fn new(seed: u64, seconds: i64, shiftable: bool) -> Self {
        let mut random = StdRng::seed_from_u64(seed ^ 0x00ca_1e0d);
        let drawn = match random.random_range(0..8) {
            0 | 1 => Edge::Month,
            2 => Edge::LeapDay,
            3 => Edge::ClocksForward,
            4 => Edge::ClocksBack,
            _ => Edge::None,
        };
        let now = clock::system().now();
        let lead = (seconds / 2).min(AHEAD_SECONDS - 60);
        // Clocks are set ahead, never back.
        let next = if shiftable { drawn.next(now.plus_seconds(lead)) } else { None };
        let (edge, edge_at) = next.map_or((Edge::None, now), |at| (drawn, at));
        let ahead = if edge == Edge::None { 0 } else { edge_at.since(now) / 1_000_000 - lead };
        let clock = Clock::from_fn(move || clock::system().now().plus_seconds(ahead));
        let begins = now.plus_seconds(ahead);
        let near = |seconds: i64| edge_at.plus_seconds(seconds);
        let mut moments: Vec<Micros> = [-5, -1, 0, 1, 5].map(near).to_vec();
        moments.push(Micros(edge_at.0 - 1));
        // Late ones and early ones, a few moments only so that short periods stay few.
        moments.extend(
            [-OLDEST_SECONDS, -86_400, -3 * 3_600, -90, -20, 60, AHEAD_SECONDS].map(|s| begins.plus_seconds(s)),
        );
        moments.retain(|moment| {
            (begins.plus_seconds(-OLDEST_SECONDS)..=begins.plus_seconds(AHEAD_SECONDS)).contains(moment)
        });
        Self { edge, ahead, clock, moments }
    }

    /// Its name in reports.
    pub const fn name(&self) -> &'static str {
        match self.edge {
            Edge::None => "now",
            Edge::Month => "end of a month",
            Edge::LeapDay => "end of a leap day",
            Edge::ClocksForward => "a midnight that is skipped",
            Edge::ClocksBack => "a midnight that comes twice",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Micros {
        text.parse::<jiff::Timestamp>().unwrap().into()
    }

    #[test]
    fn every_edge_is_the_next_one_whenever_a_run_plays() {
        for (edge, now, next) in [
            (Edge::Month, "2026-11-21T12:00:00Z", "2026-12-01T00:00:00Z"),
            (Edge::LeapDay, "2026-11-21T12:00:00Z", "2028-03-01T00:00:00Z"),
            (Edge::LeapDay, "2028-03-01T00:00:00Z", "2032-03-01T00:00:00Z"),
            (Edge::LeapDay, "2097-01-01T00:00:00Z", "2104-03-01T00:00:00Z"),
            (Edge::ClocksForward, "2026-11-21T12:00:00Z", "2027-03-14T05:00:00Z"),
            (Edge::ClocksForward, "2027-03-14T05:00:00Z", "2028-03-12T05:00:00Z"),
            (Edge::ClocksBack, "2026-11-21T12:00:00Z", "2027-11-07T05:00:00Z"),
            (Edge::ClocksBack, "2031-01-01T00:00:00Z", "2031-11-02T05:00:00Z"),
        ] {
            assert_eq!(edge.next(at(now)), Some(at(next)), "{edge:?} after {now}");
        }
    }

    #[test]
    fn a_run_begins_before_its_edge_with_clocks_that_are_not_set_back() {
        let mut edges = std::collections::BTreeSet::new();
        for seed in 0..64 {
            let scenario = Scenario::new(seed, 300, true);
            edges.insert(scenario.name());
            assert!(scenario.ahead >= 0, "{scenario:?}");
        }
        assert_eq!(edges.len(), 5, "{edges:?}");
    }
}
