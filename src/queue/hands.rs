//! What one worker has in its hands: the jobs it was given and has not settled.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::time::Instant;

use super::job::JobId;
use super::payload::Kind;

/// What must be known of a job to settle it.
#[derive(Debug, Clone, Copy)]
pub(super) struct InHand {
    pub attempts: u32,
    pub crashes: u32,
    /// `None`: this program does not know it.
    pub kind: Option<Kind>,
    pub since: Instant,
}

/// The jobs in hand. Bounded by `WorkerOptions::max_in_hand`.
#[derive(Debug, Default)]
pub(super) struct Hands(Mutex<Held>);

#[derive(Debug, Default)]
struct Held {
    jobs: HashMap<JobId, InHand>,
    alone: Option<JobId>,
}

impl Hands {
    fn lock(&self) -> MutexGuard<'_, Held> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes jobs; `alone`: the only one of them is a suspect.
    pub fn take(&self, jobs: impl IntoIterator<Item = (JobId, InHand)>, alone: bool) {
        let mut held = self.lock();
        for (id, job) in jobs {
            if alone {
                held.alone = Some(id.clone());
            }
            held.jobs.insert(id, job);
        }
    }

    /// What is known of each of `ids` that is in hand.
    pub fn look<T>(&self, ids: impl IntoIterator<Item = (JobId, T)>) -> Vec<(JobId, InHand, T)> {
        let held = self.lock();
        ids.into_iter().filter_map(|(id, with)| held.jobs.get(&id).map(|job| (id.clone(), *job, with))).collect()
    }

    /// Whether `id` is in hand.
    pub fn holds(&self, id: &JobId) -> bool {
        self.lock().jobs.contains_key(id)
    }

    /// Lets settled jobs go.
    pub fn release<'a>(&self, ids: impl IntoIterator<Item = &'a JobId>) {
        let mut held = self.lock();
        for id in ids {
            held.jobs.remove(id);
            if held.alone.as_ref() == Some(id) {
                held.alone = None;
            }
        }
    }

    /// How many are in hand, and whether a suspect runs.
    pub fn count(&self) -> (usize, bool) {
        let held = self.lock();
        (held.jobs.len(), held.alone.is_some())
    }

    /// How many are in hand, and since when the oldest.
    pub fn oldest(&self) -> (usize, Option<Instant>) {
        let held = self.lock();
        (held.jobs.len(), held.jobs.values().map(|job| job.since).min())
    }
}
