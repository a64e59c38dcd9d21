//! The only SQL. One file per table or per question; every query is static text.

pub mod audit_log;
pub mod dead_letters;
pub mod definitions;
pub mod directory;
pub mod entries;
pub mod events;
pub mod facts;
pub mod fold_periods;
pub mod games;
pub mod keys;
pub mod leaderboards;
pub mod leases;
pub mod markers;
mod micros;
pub mod periods;
pub mod standings;
mod sums;
