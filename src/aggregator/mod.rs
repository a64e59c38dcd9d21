//! The cron role's main work: score facts become entries, entries become leaderboards in Redis.
//!
//! * [`shards`] holds the leases: which shards this process folds;
//! * [`fold`] consumes facts, updates entries and writes a marker, in one transaction;
//! * [`publish`] tells Redis what the marker says, then removes it;
//! * [`rebuild`] makes a whole board in Redis from the entries, for those are disposable;
//! * [`bring_back`] brings back what an earlier program put aside; [`refused`] puts aside what no fold can take, and
//!   has folds leave out for a while what would keep them waiting;
//! * [`run`] drives them; [`fold_health`] is what it met, for `/readyz`.
//!
//! Beside the loop, what happens now and then: partitions and [`retention`] with its [`baseline`], [`close_periods`],
//! [`recompute`] of leaderboards that were created or edited, and the [`audit`]. [`schedule`] has the table, and each
//! job of it works with a [`context`]. [`builds`] says which recompute is next, and [`turn`] for how long.

pub mod audit;
pub mod baseline;
pub mod bring_back;
pub mod builds;
pub mod close_periods;
pub mod context;
pub mod fold;
pub mod fold_health;
pub mod history;
pub mod hooks;
pub mod lost_boards;
pub mod low_water;
pub mod marker;
pub mod observe;
pub mod outlook;
pub mod portion;
pub mod publish;
pub mod rebuild;
pub mod recompute;
pub mod refused;
mod resting;
pub mod retention;
pub mod rules;
pub mod run;
pub mod schedule;
pub mod settings;
pub mod shards;
pub mod tenure;
pub mod turn;

pub use run::{Aggregator, run};
