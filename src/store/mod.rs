//! The only SQL. One file per table or per question; every query is static text.

pub mod definitions;
pub mod events;
pub mod failure;
pub mod leases;
mod micros;
