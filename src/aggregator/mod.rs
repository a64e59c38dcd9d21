//! The cron role's main work: score facts become entries, entries become leaderboards in Redis.
//!
//! * [`shards`] holds the leases: which shards this process folds;
//! * [`fold`] consumes facts, updates entries and writes a marker, in one transaction (invariant 4);
//! * [`publish`] tells Redis what the marker says, then removes it;
//! * [`rebuild`] makes a whole board in Redis from the entries (invariant 5);
//! * [`run`] drives them.

pub mod fold;
pub mod marker;

pub mod publish;
pub mod rebuild;
pub mod role;
pub mod rules;
pub mod run;
pub mod shards;

pub use run::{Aggregator, run};
