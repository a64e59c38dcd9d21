//! The only SQL. One file per table or per question; every query is static text.

pub mod definitions;
pub mod events;
pub mod leases;
mod micros;
pub mod partitions;
pub mod event_scan;
pub mod baseline;
