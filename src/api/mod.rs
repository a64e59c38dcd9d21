//! The door out: leaderboards for players, administration for studios and operators.
//!
//! A reading request goes `access` (whose key is it) → `reading` (which leaderboard) → `boards` (which period) →
//! `cache` (bytes, if they were made since the board last changed) → `source` (Redis, or Postgres where that is
//! certain) → `answer` → `encoding`. Administration (`admin`) writes to Postgres and publishes the directory.
//!
//! `state` holds the parts that requests share. A part takes what it needs when it is made and does not know `state`.

mod access;
mod admin;
mod ahead;
mod answer;
mod behind;
mod boards;
mod body;
mod cache;
mod change;
mod compression;
mod cursor;
mod encoding;
mod entries;
mod error;
mod final_board;
mod history;
mod leaderboards;
mod observe;
mod openapi;
mod path;
mod problem;
mod public_reads;
mod query;
mod reading;
mod routes;
pub mod settings;
mod sorted_board;
mod source;
mod state;

pub use openapi::document;
pub use routes::router;
pub use state::{ApiSettings, ApiState, WeakAdminToken};
