//! Limits that are counted on a server of their own. It is disposable: while it is away nobody waits for it, and ingest
//! limits by itself.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use super::call::{Calls, no_answer_of_ours};
use super::request::{EnqueueError, EnqueueReply, EnqueueRequest};
use super::script::{OfAddress, Parts};
use crate::domain::clock::Micros;
use crate::redis_connection::Connection;

/// After a call without an answer nobody asks for so long. Then one request waits for it again, and those beside it.
const REST: Duration = Duration::from_secs(2);
const NONE: Parts = Parts { address: false, quotas: false, queue: false };

/// The server, and whether it is worth asking.
#[derive(Debug)]
pub(super) struct ApartLimits {
    connection: Connection,
    opened: Instant,
    /// Until when it is not asked, in ms since `opened`.
    away_until_ms: AtomicU64,
}

impl ApartLimits {
    pub fn new(connection: Connection) -> Self {
        Self { connection, opened: Instant::now(), away_until_ms: AtomicU64::new(0) }
    }

    fn elapsed_ms(&self) -> u64 {
        u64::try_from(self.opened.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Whether it is not to be asked for now.
    pub fn is_away(&self) -> bool {
        self.elapsed_ms() < self.away_until_ms.load(Ordering::Relaxed)
    }

    fn lost(&self, error: &redis::RedisError) -> EnqueueError {
        let until = self.elapsed_ms() + u64::try_from(REST.as_millis()).unwrap_or_default();
        if self.away_until_ms.swap(until, Ordering::Relaxed) == 0 {
            tracing::warn!(%error, "the limits' Redis does not answer; this process limits by itself until it does");
        }
        EnqueueError::LimitsAway
    }

    fn found(&self) {
        if self.away_until_ms.load(Ordering::Relaxed) > 0 && self.away_until_ms.swap(0, Ordering::Relaxed) > 0 {
            tracing::info!("the limits' Redis answers again");
        }
    }

    /// Counts the address and the quotas of a request, or says what is over.
    ///
    /// # Errors
    /// [`EnqueueError::LimitsAway`].
    pub async fn count(
        &self,
        calls: &Calls,
        request: &EnqueueRequest<'_>,
        address: &mut OfAddress,
    ) -> Result<EnqueueReply, EnqueueError> {
        // On a cluster an address and a game may live on different nodes.
        let steps: &[Parts] = if self.connection.is_cluster() {
            &[Parts { address: true, ..NONE }, Parts { quotas: true, ..NONE }]
        } else {
            &[Parts { address: true, quotas: true, ..NONE }]
        };
        let mut used = Vec::new();
        for parts in steps {
            if !(parts.address && request.address.is_some() || parts.quotas && !request.quotas.is_empty()) {
                continue;
            }
            match self.ask(calls, request, *parts, address).await? {
                EnqueueReply::Done { quotas, .. } => used.extend(quotas),
                refused => return Ok(refused),
            }
        }
        Ok(EnqueueReply::Done { received_at: Micros::default(), quotas: used })
    }

    /// Counts the address alone.
    ///
    /// # Errors
    /// [`EnqueueError::LimitsAway`].
    pub async fn count_address(
        &self,
        calls: &Calls,
        request: &EnqueueRequest<'_>,
        address: &mut OfAddress,
    ) -> Result<EnqueueReply, EnqueueError> {
        if request.address.is_none() {
            return Ok(EnqueueReply::Done { received_at: Micros::default(), quotas: Vec::new() });
        }
        self.ask(calls, request, Parts { address: true, ..NONE }, address).await
    }

    async fn ask(
        &self,
        calls: &Calls,
        request: &EnqueueRequest<'_>,
        parts: Parts,
        address: &mut OfAddress,
    ) -> Result<EnqueueReply, EnqueueError> {
        if self.is_away() {
            return Err(EnqueueError::LimitsAway);
        }
        match calls.run(&self.connection, request, parts, address).await {
            Ok(reply) => {
                self.found();
                reply.ok_or_else(no_answer_of_ours)
            }
            Err(error) => Err(self.lost(&error)),
        }
    }
}
