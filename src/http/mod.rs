//! What both doors share: the listener with its bounds and deadlines, who is calling, and how a refusal looks.

pub mod body;
pub mod bounded_table;
pub mod client_address;
pub mod connection;
pub mod connections;
pub mod credentials;
pub mod failed_guesses;
pub mod problem;
pub mod server;
pub mod settings;
pub mod unread;
