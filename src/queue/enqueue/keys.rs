//! The Redis keys of the enqueue script (`docs/redis-keys.md`).

use super::request::{EnqueueRequest, QuotaSubject};
use crate::domain::ids::GameId;

/// Where limits are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LimitKeys {
    /// In the queue's slot, in the enqueue call.
    WithQueue,
    /// By their own tag, in calls of their own.
    Apart,
}

/// Names of keys under one prefix.
#[derive(Debug, Clone)]
pub struct Keys {
    prefix: String,
    tag: String,
    limits: LimitKeys,
    /// `{sl:q0}:jobs`, `:high`, `:low`, `:counters`.
    pub queue: [String; 4],
    /// The channel that says that jobs wait in an empty lane.
    pub wake: String,
}

impl Keys {
    /// The keys of the queue `queue`.
    pub fn new(prefix: &str, queue: &str, limits: LimitKeys) -> Self {
        let tag = format!("{{{prefix}:{queue}}}");
        Self {
            queue: ["jobs", "high", "low", "counters"].map(|name| format!("{tag}:{name}")),
            wake: format!("{prefix}:{queue}:wake"),
            prefix: prefix.to_owned(),
            tag,
            limits,
        }
    }

    /// The window and the block of an address.
    pub fn address(&self, address: &str) -> [String; 2] {
        let tag = match self.limits {
            LimitKeys::WithQueue => self.tag.clone(),
            LimitKeys::Apart => format!("{{{}:a:{address}}}", self.prefix),
        };
        [format!("{tag}:limit:ip:{address}"), format!("{tag}:limit:block:{address}")]
    }

    /// The counter of a quota.
    pub fn quota(&self, game: GameId, subject: QuotaSubject<'_>) -> String {
        let tag = match self.limits {
            LimitKeys::WithQueue => self.tag.clone(),
            LimitKeys::Apart => format!("{{{}:g:{game}}}", self.prefix),
        };
        match subject {
            QuotaSubject::Player(player) => format!("{tag}:limit:player:{game}:{player}"),
            QuotaSubject::Game => format!("{tag}:limit:game:{game}"),
        }
    }

    /// The receipt under an `Idempotency-Key`, and the set that counts the game's.
    pub fn receipt(&self, request: &EnqueueRequest<'_>) -> Option<[String; 2]> {
        let remember = request.remember?;
        let (tag, game) = (&self.tag, request.game);
        Some([format!("{tag}:idem:{game}:{}:{}", remember.key_id, remember.key), format!("{tag}:idemcount:{game}")])
    }
}
