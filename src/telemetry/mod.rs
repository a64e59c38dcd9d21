//! Logs and metrics.

pub mod logs;
pub mod metrics;
pub mod process;
pub mod recorder;
pub mod redaction;
