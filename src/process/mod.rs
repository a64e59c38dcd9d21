//! What makes a process of a role.
//!
//! * [`settings`] are what every process is given; [`roles`] start each role from its own;
//! * [`start`] waits for what a role needs, and [`watch`] asks for it from then on;
//! * [`listener`] tells what [`readiness`] knows, with health, pools and metrics; never on the public port;
//! * [`entry_point`] runs a role as a process, and [`commands`] look at what processes will be given.

pub mod commands;
pub mod entry_point;
pub mod listener;
pub mod readiness;
pub mod roles;
pub mod settings;
pub mod start;
pub mod watch;
