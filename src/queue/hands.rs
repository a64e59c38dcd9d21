//! What one worker has in its hands: the jobs it was given and has not settled.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::time::Instant;

use super::job_id::JobId;
use super::pacing::Load;
use super::payload::Kind;

/// What must be known of a job to settle it.
#[derive(Debug, Clone, Copy)]
pub(super) struct InHand {
    pub attempts: u32,
    pub crashes: u32,
    /// Times in a row it was set aside before.
    pub blocked: u32,
    /// `None`: this program does not know it.
    pub kind: Option<Kind>,
    pub since: Instant,
    /// Of its payload.
    pub bytes: usize,
    /// Rescued from a dead worker: only suspects are in hand beside it.
    pub suspect: bool,
    /// Redis gave it to us again while its settlement was still unanswered: that settlement took effect already.
    pub again: bool,
}

/// The jobs in hand. Bounded by `WorkerOptions::max_in_hand`.
#[derive(Debug, Default)]
pub(super) struct Hands(Mutex<Held>);

#[derive(Debug, Default)]
struct Held {
    jobs: HashMap<JobId, InHand>,
    bytes: usize,
    suspects: usize,
    /// Jobs that were set aside before.
    set_aside: usize,
}

impl Hands {
    fn lock(&self) -> MutexGuard<'_, Held> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes jobs. Returns those that are in hand already, because Redis has
    /// settled them and the answer was lost or is late. They must not run beside that settlement, which may be repeated
    /// and would then meet the new run.
    pub fn take(&self, jobs: impl IntoIterator<Item = (JobId, InHand)>) -> Vec<JobId> {
        let (mut held, mut twice) = (self.lock(), Vec::new());
        for (id, job) in jobs {
            if let Some(known) = held.jobs.get_mut(&id) {
                known.again = true;
                twice.push(id);
                continue;
            }
            held.suspects += usize::from(job.suspect);
            held.set_aside += usize::from(job.blocked > 0);
            held.bytes += job.bytes;
            held.jobs.insert(id, job);
        }
        twice
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

    /// Lets settled jobs go. Returns whether Redis may list one of them as held all the same ([`InHand::again`]).
    pub fn release<'a>(&self, ids: impl IntoIterator<Item = &'a JobId>) -> bool {
        let (mut held, mut again) = (self.lock(), false);
        for id in ids {
            if let Some(job) = held.jobs.remove(id) {
                held.bytes -= job.bytes;
                held.suspects -= usize::from(job.suspect);
                held.set_aside -= usize::from(job.blocked > 0);
                again |= job.again;
            }
        }
        again
    }

    /// How many are in hand, of how many bytes, whether suspects run, and how many were set aside before.
    pub fn load(&self) -> Load {
        let held = self.lock();
        Load { in_hand: held.jobs.len(), bytes: held.bytes, suspects: held.suspects > 0, set_aside: held.set_aside }
    }

    /// How many are in hand, and since when the oldest.
    pub fn oldest(&self) -> (usize, Option<Instant>) {
        let held = self.lock();
        (held.jobs.len(), held.jobs.values().map(|job| job.since).min())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_that_comes_again_before_its_settlement_was_answered_is_not_run_beside_it() {
        let hands = Hands::default();
        let id = JobId { text: "5-a-h".into(), tenure: 0 };
        let since = Instant::now();
        let job =
            InHand { attempts: 0, crashes: 0, blocked: 2, kind: None, since, bytes: 7, suspect: true, again: false };
        assert!(hands.take([(id.clone(), job)]).is_empty());
        assert_eq!(hands.take([(id.clone(), job)]), std::slice::from_ref(&id));
        assert_eq!((hands.load().in_hand, hands.load().bytes, hands.load().suspects), (1, 7, true));
        assert_eq!(hands.load().set_aside, 1);
        assert!(hands.release([&id]), "Redis must be asked what it lists as held");
        assert!(!hands.holds(&id));
        assert_eq!((hands.load().in_hand, hands.load().bytes, hands.load().suspects), (0, 0, false));
        assert_eq!(hands.load().set_aside, 0);
        assert!(hands.take([(id.clone(), job)]).is_empty());
        assert!(!hands.release([&id]));
    }
}
