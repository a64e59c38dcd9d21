//! The job queue against a real Redis: the fifteen points of docs/rules.md, each by name, and fine print 1, 2 and 17.

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
