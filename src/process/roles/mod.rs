//! The four roles: what each is given, and how it starts.

pub mod api;
pub mod cron;
pub mod ingest;
pub mod worker;
