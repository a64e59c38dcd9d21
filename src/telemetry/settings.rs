//! Which logs are written, and how they look.

use clap::Args;

/// Logs.
#[derive(Args, Debug, Clone)]
pub struct TelemetryConfig {
    /// Which logs to write, as `tracing` filter directives.
    #[arg(long, env = "LOG", default_value = "info")]
    pub log: String,
    /// `json` for machines, `text` for people.
    #[arg(long, env = "LOG_FORMAT", default_value = "json")]
    pub log_format: LogFormat,
}

/// How log lines look.
#[derive(clap::ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// One JSON object per line.
    Json,
    /// For people.
    Text,
}
