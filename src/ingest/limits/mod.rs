//! Limits on requests per address and events per player and game (docs/rules.md#limits-pass-all-or-nothing). What
//! counts is in Redis, in the enqueue call; this is what a replica keeps to itself so that most requests need not ask
//! about most limits, a blocked address costs no call, and limits hold while Redis is away. All of it is bounded.

mod known;
mod newcomers;
mod plan;
mod sieve;

pub use known::{GameLimits, Limits, Remaining, Sender};
pub use plan::{Group, Plan};
