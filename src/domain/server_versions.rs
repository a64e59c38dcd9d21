//! The oldest servers that Scoreline runs on.

/// The oldest major version of Redis that has what the scripts use.
pub const MIN_REDIS: u32 = 7;
