//! What everything stands on: private services, the listener, start and stop, configuration.

mod bench;
mod http;
mod imports;
mod installing;
mod metrics;
mod operations;
mod pools;
pub mod processes;
mod readiness;
mod roles;
pub mod rules;
mod services;
mod settings;
mod unread;
mod unread_log;
mod writing;
