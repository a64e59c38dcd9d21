//! Which shards this process folds: one lease per shard, renewed each second
//! (docs/rules.md#frozen-processes-keep-no-lock).

use std::time::Duration;

use tokio::sync::{Mutex, watch};
use tokio_util::sync::CancellationToken;

use crate::domain::fact::FOLD_SHARDS;
use crate::store::leases::{self, Lease};
use crate::store::{Pool, StoreError};

/// How often leases are renewed and free ones looked for.
pub const RENEW_INTERVAL: Duration = Duration::from_secs(1);

/// The leases that this process holds, shared by its tasks.
#[derive(Debug)]
pub struct Shards {
    pool: Pool,
    holder: String,
    held: watch::Sender<Vec<Lease>>,
    /// One changes what is held at a time: another that looked before would forget what this one has taken.
    changing: Mutex<()>,
}

/// The lease of a shard.
fn lease_name(shard: u16) -> String {
    format!("fold-{shard}")
}

/// The shards that these leases are for.
pub fn numbers(leases: &[Lease]) -> Vec<i16> {
    leases.iter().filter_map(|l| l.name.strip_prefix("fold-")?.parse().ok()).collect()
}

/// The leases of one of the two lanes in which a process folds. By number, not by position among those held: a shard
/// never changes its lane, so no two folds of one process ever work on the same shard.
pub fn of_lane(held: Vec<Lease>, lane: i16) -> Vec<Lease> {
    held.into_iter().filter(|lease| numbers(std::slice::from_ref(lease)).iter().all(|n| n % 2 == lane)).collect()
}

impl Shards {
    /// Holds nothing yet. `holder` names this process in the lease rows.
    pub fn new(pool: Pool, holder: String) -> Self {
        Self { pool, holder, held: watch::Sender::new(Vec::new()), changing: Mutex::default() }
    }

    /// The leases held, as last known.
    pub fn held(&self) -> Vec<Lease> {
        self.held.borrow().clone()
    }

    /// Tells of changes.
    pub fn subscribe(&self) -> watch::Receiver<Vec<Lease>> {
        self.held.subscribe()
    }

    /// Renews what is held, forgets what was lost, takes what is free.
    ///
    /// # Errors
    /// [`StoreError`]; what is held is then unknown, and each fold finds out for itself.
    pub async fn renew(&self) -> Result<(), StoreError> {
        let _changing = self.changing.lock().await;
        let before = self.held();
        let mut now = if before.is_empty() { Vec::new() } else { leases::renew(&self.pool, &before).await? };
        for lost in before.iter().filter(|l| !now.contains(l)) {
            tracing::warn!(lease = lost.name, "lost the lease of a fold shard");
        }
        let missing: Vec<String> =
            (0..FOLD_SHARDS).map(lease_name).filter(|name| now.iter().all(|l| l.name != *name)).collect();
        if !missing.is_empty() {
            for name in leases::free(&self.pool, &missing).await? {
                if let Some(lease) = leases::acquire(&self.pool, &name, &self.holder).await? {
                    tracing::info!(lease = lease.name, token = lease.token, "folding this shard");
                    now.push(lease);
                }
            }
        }
        now.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        self.held.send_if_modified(|held| {
            let changed = *held != now;
            *held = now;
            changed
        });
        Ok(())
    }

    /// Renews each second until `stop`.
    pub async fn keep(&self, stop: CancellationToken) {
        let mut tick = tokio::time::interval(RENEW_INTERVAL);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = tick.tick() => {}
            }
            if let Err(error) = self.renew().await {
                tracing::warn!(%error, "leases could not be renewed");
            }
        }
    }

    /// Signs off, so that another process takes over at once.
    pub async fn release(&self) {
        let _changing = self.changing.lock().await;
        let held = self.held.send_replace(Vec::new());
        if !held.is_empty()
            && let Err(error) = leases::release(&self.pool, &held).await
        {
            tracing::warn!(%error, "leases could not be released; they expire by themselves");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shard_keeps_its_lane_whatever_else_is_held() {
        let lease = |shard: u16| Lease { name: lease_name(shard), token: 1 };
        let names = |held: &[u16], lane| numbers(&of_lane(held.iter().map(|s| lease(*s)).collect(), lane));
        assert_eq!((names(&[0, 1, 2, 3], 0), names(&[0, 1, 2, 3], 1)), (vec![0, 2], vec![1, 3]));
        assert_eq!((names(&[1, 2, 3], 0), names(&[1, 2, 3], 1)), (vec![2], vec![1, 3]));
    }
}
