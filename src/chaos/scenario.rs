//! When a run plays: now, or at an edge of the calendar, with every process's clock set ahead.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::domain::clock::{Clock, Micros};
use crate::domain::month::Month;

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
        let edge = if shiftable { drawn } else { Edge::None };
        let now = Clock::system().now();
        let at = |text: &str| text.parse::<jiff::Timestamp>().map_or(now, Micros::from);
        let edge_at = match edge {
            Edge::None => now,
            Edge::Month => Month::of(now).ends_at(),
            Edge::LeapDay => at("2028-03-01T00:00:00Z"),
            // Cuba changes its clocks at midnight.
            Edge::ClocksForward => at("2027-03-14T05:00:00Z"),
            Edge::ClocksBack => at("2027-11-07T05:00:00Z"),
        };
        let lead = if edge == Edge::None { 0 } else { (seconds / 2).min(AHEAD_SECONDS - 60) };
        let ahead = (edge_at.since(now) / 1_000_000) - lead;
        let ahead = if edge == Edge::None { 0 } else { ahead.max(0) };
        let clock = Clock::from_fn(move || Clock::system().now().plus_seconds(ahead));
        let begins = now.plus_seconds(ahead);
        let near = |seconds: i64| edge_at.plus_seconds(seconds);
        let mut moments: Vec<Micros> = [-5, -1, 0, 1, 5].map(near).to_vec();
        moments.push(Micros(edge_at.0 - 1));
        // Late ones and early ones; whole minutes are rounded so that short periods stay few.
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
