//! `scoreline up`: everything in one process, on private Postgres and Redis, with a demo game that plays.

mod announce;
mod command;
mod demo;
mod endpoints;
mod roles;
mod services;

pub use command::{UpConfig, run, with_private_defaults};
pub use services::{ServicesConfig, run as run_services};
