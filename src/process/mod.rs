//! What makes a process of a role.

pub mod settings;
