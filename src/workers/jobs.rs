//! The list of every kind of job, with who runs it.

use super::persist_events::PersistEvents;
use crate::queue::payload::Kind;
use crate::queue::{Delivery, JobRunner, Settlement};

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
