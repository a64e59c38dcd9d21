//! Reading what no longer changes from the replica (`DATABASE_READ_URL`), and from the primary when that is away.
//!
//! A replica lags. Final standings are written once, and with them the period becomes closed: whatever the replica says
//! of a period that it knows to be closed is what the primary says. Everything else is asked of the primary.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use metrics::Counter;
use moka::future::Cache;

use crate::domain::clock::Clock;
use crate::store::periods::{StoredPeriod, is_closed};
use crate::store::{Pool, StoreError};
use crate::telemetry::metrics::READ_REPLICA_FALLBACKS;

/// A replica that failed is left alone for this long.
const REST_SECONDS: i64 = 5;
/// Closed periods that the replica is known to have.
const MAX_PERIODS: u64 = 10_000;

/// Where history is read.
pub struct History {
    primary: Pool,
    replica: Option<Pool>,
    clock: Clock,
    resting_until: AtomicI64,
    /// By era and period.
    has: Cache<(i64, i64), bool>,
    era: AtomicI64,
    fallbacks: Counter,
}

impl History {
    /// Reads from `replica` where there is one.
    pub fn new(primary: Pool, replica: Option<Pool>, clock: Clock) -> Self {
        let has = Cache::builder().max_capacity(MAX_PERIODS).time_to_live(Duration::from_secs(3_600)).build();
        let fallbacks = metrics::counter!(READ_REPLICA_FALLBACKS, "role" => "api");
        let (resting_until, era) = (AtomicI64::new(0), AtomicI64::new(0));
        Self { primary, replica, clock, resting_until, has, era, fallbacks }
    }

    /// Postgres went back in time: the replica may have been made anew, and a period's id may be another's.
    pub fn forget(&self) {
        if let Some(replica) = &self.replica {
            replica.renew_connections();
        }
        self.era.fetch_add(1, Ordering::AcqRel);
    }

    /// The primary.
    pub fn primary(&self) -> &Pool {
        &self.primary
    }

    /// The replica, if it has the final standings of `period`.
    pub async fn replica_for(&self, period: &StoredPeriod) -> Option<&Pool> {
        let replica = self.replica.as_ref()?;
        if !period.closed || self.clock.now().0 < self.resting_until.load(Ordering::Relaxed) {
            return None;
        }
        let key = (self.era.load(Ordering::Acquire), period.id);
        if self.has.get(&key).await.is_some() {
            return Some(replica);
        }
        match is_closed(replica, period.id).await {
            Ok(true) => self.has.insert(key, true).await,
            // It lags behind.
            Ok(false) => return None,
            Err(error) => {
                self.failed(&error);
                return None;
            }
        }
        Some(replica)
    }

    /// What the replica answers, else what the primary does. Futures do nothing until they are awaited.
    pub async fn either<T>(
        &self,
        replica: Option<impl Future<Output = Result<T, StoreError>>>,
        primary: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        if let Some(replica) = replica {
            match replica.await {
                Ok(answer) => return Ok(answer),
                Err(error) => self.failed(&error),
            }
        }
        primary.await
    }

    fn failed(&self, error: &StoreError) {
        self.fallbacks.increment(1);
        let now = self.clock.now();
        let before = self.resting_until.swap(now.plus_seconds(REST_SECONDS).0, Ordering::Relaxed);
        if before < now.0 {
            tracing::warn!(%error, "the read replica does not answer; reading from the primary");
        }
    }
}
