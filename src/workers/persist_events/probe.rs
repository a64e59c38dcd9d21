//! Whose fault it is when nobody knows: a write of our own that fails as well means that it is the server's.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::domain::clock::Micros;
use crate::store::pool::Pool;
use crate::store::write_probe::write_and_undo;

/// A server that took our own write is well for this long: narrowing a fault down asks many times.
const WELL_FOR: Duration = Duration::from_millis(500);

/// Remembers for a moment that the server took a write. Shared by a process's writers.
#[derive(Debug, Default)]
pub struct Probe(Mutex<Option<Instant>>);

impl Probe {
    /// Whether the server takes a write of our own that is dated `at`. Asked `anew` where it decides about somebody:
    /// what was true a moment ago may have changed before the attempt that failed.
    pub async fn server_is_well(&self, pool: &Pool, at: Micros, anew: bool) -> bool {
        let last = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !anew && last.is_some_and(|at| at.elapsed() < WELL_FOR) {
            return true;
        }
        let asked = Instant::now();
        match write_and_undo(pool, at).await {
            Ok(()) => *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(asked),
            Err(error) => {
                tracing::warn!(%error, "Postgres refuses a probe row, too: the server is at fault, and all jobs wait");
                return false;
            }
        }
        true
    }
}
