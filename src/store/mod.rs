//! The only SQL. One file per table or per question; every query is static text.

pub mod audit;
pub mod baseline;
pub mod definitions;
pub mod entries;
pub mod event_scan;
pub mod events;
pub mod facts;
pub mod fold_periods;
pub mod leases;
pub mod markers;
mod micros;
pub mod partitions;
pub mod periods;
mod place;
pub mod recompute;
pub mod recompute_steps;
pub mod retention;
mod sums;
