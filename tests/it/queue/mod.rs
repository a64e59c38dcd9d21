//! The job queue against a real Redis: each rule under docs/rules.md#the-job-queue has a test.

mod attempts;
mod backlog;
mod clocks;
pub mod cluster;
mod crashes;
mod dead_letters;
mod outages;
pub mod rig;
mod seen;
mod stopping;
