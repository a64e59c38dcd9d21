//! Logs and metrics.

pub mod log_budget;
pub mod log_writer;
pub mod logs;
pub mod metrics;
pub mod process;
pub mod recorder;
pub mod redaction;
pub mod settings;
