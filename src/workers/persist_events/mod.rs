//! `persist-events`: stores the events of many jobs in one transaction, exactly once, with their score facts.
//!
//! Jobs come one by one from apalis; [`PersistEvents::run`] hands each to the writers and waits until it is settled. A
//! writer takes all jobs that wait (up to a group's size), stores them in one transaction and settles them with one
//! script. Groups grow by themselves: the busier the system, the more jobs wait for a writer.
//!
//! `runner.rs` groups the jobs, `group.rs` decodes and sorts them, `writer.rs` writes piece by piece (`pieces.rs`),
//! `transaction.rs` is one attempt, `narrowing.rs` decides what an error means (`probe.rs` asks whether it is the
//! server, `months.rs` whether it is a month's table), `copy_rest.rs` when COPY is not worth trying, `dead_event.rs`
//! keeps the one event that cannot be stored. `shared.rs` is what the writers of a process share.

mod copy_rest;
mod dead_event;
mod group;
mod months;
mod narrowing;
mod pieces;
mod probe;
mod runner;
mod seen;
mod shared;
mod transaction;
mod writer;

pub use runner::PersistEvents;
