//! The job queue on Redis, driven by apalis workers.

pub mod connection;
pub mod facts;
pub mod keys;
pub mod payload;
