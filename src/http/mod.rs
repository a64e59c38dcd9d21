//! What both doors share: the listener with its bounds and deadlines, who is calling, and how a refusal looks.

pub mod client_address;
pub mod connection;
pub mod connections;
pub mod problem;
pub mod server;
