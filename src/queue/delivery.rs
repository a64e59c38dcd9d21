//! A job in a worker's hands.

use bytes::Bytes;

use super::job_id::JobId;
use super::keys::Lane;
use super::payload::{Kind, kind_of};
use super::settle::Settler;
use crate::domain::clock::Micros;

/// A job handed to a [`super::JobRunner`].
#[derive(Debug, Clone)]
pub struct Delivery {
    /// Which job.
    pub id: JobId,
    /// Its lane.
    pub lane: Lane,
    /// When ingest received it (Redis's clock).
    pub received_at: Micros,
    /// The payload (`queue/payload.rs`).
    pub bytes: Bytes,
    /// Attempts that failed before this one.
    pub attempts: u32,
    /// Times it was running alone when its worker died.
    pub crashes: u32,
    /// Times in a row it was set aside ([`super::Settlement::Blocked`]).
    pub blocked: u32,
    /// Rescued from a dead worker: only suspects are in this worker's hands, and nothing else joins them.
    pub suspect: bool,
    pub(super) settler: Settler,
}

impl Delivery {
    /// Whether it may have run before, in part or in whole (rescued, retried or set aside), so that its effects may be
    /// there.
    pub fn ran_before(&self) -> bool {
        self.suspect || self.attempts > 0 || self.crashes > 0 || self.blocked > 0
    }

    /// What it does; the queue hands out only kinds that this program knows.
    pub fn kind(&self) -> Option<Kind> {
        kind_of(&self.bytes).ok()
    }

    /// Settles this worker's jobs; the same for every job of a worker.
    pub fn settler(&self) -> &Settler {
        &self.settler
    }
}
