//! The listener that both doors share: connections with bounds and deadlines, in front of an axum router.

pub mod connection;
pub mod connections;
pub mod server;
