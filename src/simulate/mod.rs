//! A simulated game: players of different skill who sign in, play, win and leave. Feeds the demo of `scoreline up`,
//! and `scoreline simulate` on any installation.

pub mod backfill;
pub mod client;
pub mod command;
pub mod players;
