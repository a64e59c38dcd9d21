//! The only SQL. One file per table or per question; every query is static text.

pub mod audit_log;
pub mod dead_letters;
pub mod definitions;
pub mod directory;
pub mod events;
pub mod games;
pub mod keys;
pub mod leaderboards;
pub mod leases;
mod micros;
pub mod migrations;
pub mod pool;
pub mod processes;

/// What Postgres or the way to it answered instead of a result.
pub use sqlx::Error as StoreError;
pub mod periods;
pub mod standings;
