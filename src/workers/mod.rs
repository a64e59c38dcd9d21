//! (see the module map in lib.rs)
pub mod persist_events;
