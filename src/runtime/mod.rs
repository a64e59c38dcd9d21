//! What a process has of the operating system whatever it does: signals and stopping, the clock, limits, places
//! to die.

pub mod clock;
pub mod crash_points;
pub mod lifecycle;
pub mod limits;
