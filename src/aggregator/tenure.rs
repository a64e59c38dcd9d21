//! Acting alone: a lease that is renewed for as long as the work takes (docs/rules.md#frozen-processes-keep-no-lock).

use std::time::Duration;

use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::services::audit::AuditError;
use crate::store::failure::{Failure, classify};
use crate::store::leases::{self, Lease};
use crate::store::{Pool, StoreError, Transaction};

/// How often a lease is renewed.
const RENEW_INTERVAL: Duration = Duration::from_secs(1);

/// Why work under a lease ended early. What was committed stays; the next run goes on from there.
#[derive(Debug, thiserror::Error)]
pub enum JobError {
    /// Somebody else has taken over.
    #[error("the lease was lost to another process")]
    LeaseLost,
    /// Postgres failed.
    #[error(transparent)]
    Postgres(#[from] StoreError),
    /// A partition could not be made.
    #[error(transparent)]
    Partition(#[from] crate::store::partitions::EnsureError),
    /// Leaderboards in Redis are away.
    #[error(transparent)]
    Ranking(#[from] crate::ranking::RankingError),
    /// A leaderboard could not be written to Redis.
    #[error(transparent)]
    Rebuild(#[from] crate::services::board_rebuild::RebuildBoardError),
    /// The swap of a recomputed leaderboard was refused.
    #[error(transparent)]
    Change(#[from] crate::store::recompute::ChangeError),
    /// The queue did not say how far it is.
    #[error("the queue's low-water mark is unknown: {0}")]
    LowWater(String),
    /// A specification does not compile.
    #[error(transparent)]
    Spec(#[from] crate::domain::board::SpecError),
}

impl From<AuditError> for JobError {
    fn from(error: AuditError) -> Self {
        match error {
            AuditError::Postgres(error) => Self::Postgres(error),
            AuditError::Ranking(error) => Self::Ranking(error),
            AuditError::Rebuild(error) => Self::Rebuild(error),
        }
    }
}

impl JobError {
    /// Whether a statement took longer than it may: less at once may pass.
    pub fn took_too_long(&self) -> bool {
        matches!(self, Self::Postgres(error) if classify(error) == Failure::TooMuch)
    }
}

/// A lease with the task that renews it.
#[derive(Debug)]
pub struct Tenure {
    pool: Pool,
    lease: Lease,
    renewing: JoinHandle<()>,
    stop: DropGuard,
}

impl Tenure {
    /// Takes a lease and keeps it; `None` when another process has it.
    pub async fn take(pool: &Pool, name: &str, holder: &str) -> Result<Option<Self>, StoreError> {
        let Some(lease) = leases::acquire(pool, name, holder).await? else { return Ok(None) };
        let stop = CancellationToken::new();
        let (keeper, kept, stopped) = (pool.clone(), lease.clone(), stop.clone());
        let renewing = tokio::spawn(async move {
            loop {
                tokio::select! {
                    () = stopped.cancelled() => return,
                    () = tokio::time::sleep(RENEW_INTERVAL) => {}
                }
                // An error is not a loss: each transaction checks for itself.
                if let Err(error) = leases::renew(&keeper, std::slice::from_ref(&kept)).await {
                    tracing::debug!(lease = kept.name, %error, "lease not renewed");
                }
            }
        });
        Ok(Some(Self { pool: pool.clone(), lease, renewing, stop: stop.drop_guard() }))
    }

    /// Begins a transaction in which nobody else can hold the lease.
    ///
    /// # Errors
    /// [`JobError::LeaseLost`], or a [`StoreError`].
    pub async fn begin(&self) -> Result<Transaction, JobError> {
        let mut transaction = self.pool.begin().await?;
        if leases::lock_and_check(&mut transaction, std::slice::from_ref(&self.lease)).await? {
            Ok(transaction)
        } else {
            Err(JobError::LeaseLost)
        }
    }

    /// Checks the lease before something that cannot be part of a transaction.
    ///
    /// # Errors
    /// As [`Tenure::begin`].
    pub async fn check(&self) -> Result<(), JobError> {
        self.begin().await?.rollback().await?;
        Ok(())
    }

    /// Gives the lease back, so that the next holder need not wait for it to expire.
    pub async fn sign_off(self) {
        let Self { pool, lease, renewing, stop } = self;
        drop(stop);
        // A renewal under way must not come after this.
        let _ = renewing.await;
        if let Err(error) = leases::release(&pool, &[lease]).await {
            tracing::debug!(%error, "lease not released; it expires by itself");
        }
    }
}
