//! The only SQL. One file per table or per question; every query is static text.

pub mod definitions;
pub mod entries;
pub mod events;
pub mod failure;
pub mod facts;
pub mod fold_periods;
pub mod leases;
pub mod markers;
mod micros;
mod sums;
