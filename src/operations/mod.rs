//! The operations listener of every process: health, readiness with reasons, pools, metrics. Never the public port.

pub mod listener;
pub mod migrate;
pub mod process;
pub mod readiness;
pub mod settings;
pub mod start;
pub mod watch;
