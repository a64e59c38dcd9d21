//! One call of the script, to the server of the queue or to that of the limits.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use super::admission::Admission;
use super::keys::Keys;
use super::request::{EnqueueError, EnqueueReply, EnqueueRequest};
use super::script::{self, OfAddress, Parts};
use crate::domain::clock::Micros;
use crate::redis_connection::{Connection, with_source};

/// What every call is made of, whichever server it goes to.
#[derive(Debug)]
pub(super) struct Calls {
    pub keys: Keys,
    pub admission: Arc<Admission>,
    script: redis::Script,
    /// The latest `received_at` that Redis gave, in µs: a server that knows less is told before it stamps.
    latest_stamp: AtomicI64,
}

impl Calls {
    pub fn new(keys: Keys, admission: Arc<Admission>) -> Self {
        Self { keys, admission, script: redis::Script::new(script::SOURCE), latest_stamp: AtomicI64::default() }
    }

    /// Redis gave this `received_at`.
    pub fn stamped(&self, received_at: Micros) {
        self.latest_stamp.fetch_max(received_at.0, Ordering::Relaxed);
    }

    /// One call of the script; `None`: it answered what it never does.
    pub async fn run(
        &self,
        connection: &Connection,
        request: &EnqueueRequest<'_>,
        parts: Parts,
        address: &mut OfAddress,
    ) -> redis::RedisResult<Option<EnqueueReply>> {
        let (room, latest) = (self.admission.room(request.game), self.latest_stamp.load(Ordering::Relaxed));
        let command = script::command(self.script.get_hash(), &self.keys, request, parts, room, latest);
        let value = match command.query_async(&mut connection.clone()).await {
            // A fresh or flushed server: it ran nothing, so this is safe to repeat.
            Err(error) if error.code() == Some("NOSCRIPT") => {
                with_source(&command, script::SOURCE).query_async(&mut connection.clone()).await
            }
            answered => answered,
        }?;
        let counts_address = parts.address && request.address.is_some();
        Ok(script::reply(value, counts_address).map(|(reply, of_address)| {
            address.counted = address.counted.or(of_address.counted);
            address.blocked_ms = address.blocked_ms.or(of_address.blocked_ms);
            reply
        }))
    }

    /// What an error of the queue's server means for the batch; admission is told what it shows of the server.
    pub fn judge(&self, error: &redis::RedisError) -> EnqueueError {
        match error.code() {
            Some("OOM") => {
                self.admission.out_of_memory();
                EnqueueError::OutOfMemory
            }
            Some("LOADING" | "MASTERDOWN" | "READONLY" | "CLUSTERDOWN" | "MISCONF" | "NOREPLICAS") | None => {
                self.admission.lost(error);
                unreachable(error)
            }
            Some(_) => EnqueueError::Refused(error.to_string()),
        }
    }
}

pub(super) fn unreachable(error: impl std::fmt::Display) -> EnqueueError {
    EnqueueError::Unreachable(error.to_string())
}

pub(super) fn no_answer_of_ours() -> EnqueueError {
    EnqueueError::Refused("unexpected answer".to_owned())
}
