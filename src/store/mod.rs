//! The only SQL. One file per table or per question; every query is static text.
//!
//! The rooms above know a [`Pool`], a [`Connection`], a [`Transaction`] and a [`StoreError`], and not the library
//! behind them.

pub mod audit;
pub mod audit_log;
pub mod baseline;
pub mod beacons;
pub mod board_versions;
pub mod dead_letter_intake;
pub mod dead_letters;
pub mod definitions;
pub mod directory;
pub mod entries;
pub mod event_scan;
pub mod events;
pub mod facts;
pub mod failure;
pub mod final_periods;
pub mod fold_periods;
pub mod game_bounds;
pub mod games;
pub mod grants;
pub mod keys;
pub mod leaderboards;
pub mod leases;
pub mod markers;
mod micros;
pub mod migrations;
pub mod outbox;
pub mod partitions;
pub mod period_closing;
pub mod periods;
pub mod pool;
pub mod processes;
pub mod recompute;
pub mod recompute_steps;
pub mod retention;
mod rows;
pub mod scheduled_runs;
pub mod settings;
mod sockets;
pub mod standings;
mod sums;
pub mod swap;
pub mod under_way;
pub mod write_probe;

pub use failure::StoreError;
pub use pool::{Pool, Transaction};
/// What a statement runs on: a connection, or the transaction that is open on it.
pub use sqlx::PgConnection as Connection;
