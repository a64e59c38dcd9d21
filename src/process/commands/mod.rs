//! The commands that prepare processes: what is in force, and the schema.

pub mod config;
pub mod migrate;
