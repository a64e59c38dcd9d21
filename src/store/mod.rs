//! The only SQL. One file per table or per question; every query is static text.

pub mod definitions;
pub mod entries;
pub mod events;
pub mod facts;
pub mod fold_periods;
pub mod leases;
pub mod markers;
mod micros;
mod place;
mod sums;
