//! What both doors share: the listener (connections with bounds and deadlines, in front of an axum router), who is
//! calling, and how a refusal looks.

pub mod client_address;
pub mod connection;
pub mod connections;
pub mod problem;
pub mod server;
