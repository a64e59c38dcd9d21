//! The operating system's clock.

use crate::domain::clock::{Clock, Micros};

/// The operating system's clock. The only reader of real time in the program.
pub fn system() -> Clock {
    let ahead = ahead_seconds();
    #[allow(clippy::disallowed_methods, reason = "the one module that may read the real clock")]
    Clock::from_fn(move || Micros::from(jiff::Timestamp::now()).plus_seconds(ahead))
}

/// The variable that sets a process's clock ahead (negative: back), in seconds: a chaos run plays at the edge of a
/// month with it. Only a build with the feature `failpoints` looks at it.
pub const CLOCK_AHEAD: &str = "SCORELINE_CLOCK_AHEAD_SECONDS";

#[cfg(feature = "failpoints")]
fn ahead_seconds() -> i64 {
    std::env::var(CLOCK_AHEAD).ok().and_then(|text| text.parse().ok()).unwrap_or(0)
}

#[cfg(not(feature = "failpoints"))]
const fn ahead_seconds() -> i64 {
    0
}
