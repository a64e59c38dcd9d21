//! What makes a process of a role: the settings, the start, and the operations listener with health, readiness with
//! reasons, pools and metrics. Never the public port.

pub mod commands;
pub mod entry_point;
pub mod listener;
pub mod readiness;
pub mod settings;
pub mod start;
pub mod watch;
