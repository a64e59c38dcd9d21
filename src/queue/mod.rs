//! The job queue on Redis, driven by apalis workers.

pub mod enqueue;
pub mod payload;
