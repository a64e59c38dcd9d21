//! What everything stands on: private services, the listener, start and stop, configuration.

mod http;
mod operations;
mod services;
