//! Whose fault it is when nobody knows: a write of our own that fails as well means that it is the server's.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::domain::month::Month;
use crate::store::failure::in_words;
use crate::store::pool::Pool;
use crate::store::write_probe::{write_and_undo, write_and_undo_in};

/// What took our own write is well for this long: narrowing a fault down asks many times.
const WELL_FOR: Duration = Duration::from_millis(500);

/// Remembers for a moment what took a write. Shared by a process's writers.
#[derive(Debug, Default)]
pub struct Probe(Mutex<Took>);

#[derive(Debug, Default)]
struct Took {
    server: Option<Instant>,
    months: BTreeMap<Month, Instant>,
}

impl Probe {
    fn took(&self) -> MutexGuard<'_, Took> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the server takes a write of our own. Asked `anew` where it decides about somebody: what was true a
    /// moment ago may have changed before the attempt that failed.
    pub async fn server_is_well(&self, pool: &Pool, anew: bool) -> bool {
        let last = self.took().server;
        if !anew && last.is_some_and(is_recent) {
            return true;
        }
        let asked = Instant::now();
        match write_and_undo(pool).await {
            Ok(month) => {
                let mut took = self.took();
                took.server = Some(asked);
                took.months.extend(month.map(|month| (month, asked)));
            }
            Err(error) => {
                tracing::warn!(%error, "Postgres refuses a probe row, too: the server is at fault, and all jobs wait");
                return false;
            }
        }
        true
    }

    /// Why a month's table refuses a write of our own, as it is shown, unless it has taken one `since`. The server may
    /// be at fault for that as well.
    pub async fn refusal_of(&self, pool: &Pool, month: Month, since: Option<Instant>) -> Option<String> {
        let last = self.took().months.get(&month).copied();
        if last.is_some_and(|asked| since.map_or(is_recent(asked), |since| since <= asked)) {
            return None;
        }
        let asked = Instant::now();
        let written = write_and_undo_in(pool, month).await;
        let mut took = self.took();
        took.months.retain(|_, asked| is_recent(*asked));
        match written {
            Ok(()) => {
                took.months.insert(month, asked);
                None
            }
            Err(error) => {
                let table = month.partition_name();
                tracing::warn!(%error, table, "the table of a month refuses a probe row");
                Some(format!("the table {table} of its month takes no events: {}", in_words(&error)))
            }
        }
    }
}

fn is_recent(asked: Instant) -> bool {
    asked.elapsed() < WELL_FOR
}
