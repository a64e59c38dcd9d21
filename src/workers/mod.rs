//! What workers do. Every job is listed here: a kind that is not is a dead letter.
//!
//! | kind | what it does | file |
//! |---|---|---|
//! | `persist-events` | stores events once, with their score facts | `persist_events/` |
//!
//! Beside the jobs, each worker moves dead letters from Redis to Postgres (`dead_letters.rs`).

pub mod dead_letters;
pub mod health;
pub mod persist_events;
pub mod role;

use crate::queue::payload::Kind;
use crate::queue::{Delivery, JobRunner, Settlement};
use persist_events::PersistEvents;

/// Every kind of job with its runner.
#[derive(Debug, Clone)]
pub struct Jobs {
    /// `persist-events`.
    pub persist_events: PersistEvents,
}

impl JobRunner for Jobs {
    async fn run(&self, job: Delivery) {
        match job.kind() {
            Some(Kind::PersistEvents) => self.persist_events.run(job).await,
            // The queue hands out only kinds that it can read; a kind without a runner is a defect of this list.
            None => {
                let settlement = Settlement::fail("unknown_kind", "no runner for this kind of job");
                job.settler().settle(vec![(job.id.clone(), settlement)], false).await;
            }
        }
    }
}
