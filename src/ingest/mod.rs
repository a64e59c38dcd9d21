//! The door in: authenticates, limits, validates, enqueues and answers with a receipt.

pub mod formats;
pub mod role;
