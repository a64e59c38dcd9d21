//! What workers do. `jobs.rs` lists every kind of job: one that is not there is a dead letter.
//!
//! | kind | what it does | file |
//! |---|---|---|
//! | `persist-events` | stores events once, with their score facts | `persist_events/` |
//!
//! Beside the jobs, each worker moves dead letters from Redis to Postgres (`dead_letters.rs`).

pub mod dead_letters;
pub mod health;
mod jobs;
pub mod persist_events;
pub mod settings;

pub use jobs::Jobs;
