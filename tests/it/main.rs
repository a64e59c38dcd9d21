//! Every integration test, in one binary: real Postgres, real Redis, real ports. `make test` starts the Postgres
//! server they share (each test has its own database) and sets `SCORELINE_TEST_DATABASE_URL`; each test that needs
//! Redis starts its own.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr, reason = "tests")]

mod support;

mod abuse;
mod api;
mod chaos;
#[cfg(feature = "failpoints")]
mod crashes;
mod cronjobs;
mod fold;
mod golden;
mod ingest;
mod locks;
mod outages;
mod queue;
mod redis_refuses;
mod redis_takeover;
mod silence;
mod stack;
mod system;
mod worker;
