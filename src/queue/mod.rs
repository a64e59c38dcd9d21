//! The job queue on Redis, driven by apalis workers.

pub mod connection;
pub mod keys;
pub mod payload;
pub mod facts;
