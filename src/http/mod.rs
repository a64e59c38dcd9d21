//! What both doors share: the listener, who is calling, and how a refusal looks.

pub mod client_address;
pub mod problem;
