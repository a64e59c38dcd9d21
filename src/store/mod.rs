//! The only SQL. One file per table or per question; every query is static text.

pub mod definitions;
pub mod events;
pub mod leases;
pub mod migrations;
pub mod pool;
pub mod processes;
mod micros;
