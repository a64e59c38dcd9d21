//! The Redis keys of the enqueue script (`docs/redis-keys.md`).

use super::request::{AddressCount, QuotaSubject, ReceiptName};
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
    /// `{sl:q0}:jobs`, `:high`, `:low`, `:counters`, `:shares`.
    pub queue: [String; 5],
    /// The channel that says that jobs wait in an empty lane.
    pub wake: String,
}

impl Keys {
    /// The keys of the queue `queue`.
    pub fn new(prefix: &str, queue: &str, limits: LimitKeys) -> Self {
        let tag = format!("{{{prefix}:{queue}}}");
        Self {
            queue: ["jobs", "high", "low", "counters", "shares"].map(|name| format!("{tag}:{name}")),
            wake: format!("{prefix}:{queue}:wake"),
            prefix: prefix.to_owned(),
            tag,
            limits,
        }
    }

    /// The window and the block of an address, for each game (and for requests without a key) its own.
    pub fn address(&self, counted: &AddressCount<'_>) -> [String; 2] {
        let address = counted.address;
        let tag = match self.limits {
            LimitKeys::WithQueue => self.tag.clone(),
            LimitKeys::Apart => format!("{{{}:a:{address}}}", self.prefix),
        };
        let of = counted.game.map_or_else(String::new, |game| format!("{game}|"));
        [format!("{tag}:limit:ip:{of}{address}"), format!("{tag}:limit:block:{of}{address}")]
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

    /// The receipt under an `Idempotency-Key`.
    pub fn receipt(&self, of: &ReceiptName<'_>) -> String {
        format!("{}:idem:{}:{}:{}", self.tag, of.game, of.key_id, of.key)
    }

    /// What counts receipts: of the game and kind of key, of all, and the set of one game that older programs kept.
    pub fn receipt_budgets(&self, of: &ReceiptName<'_>) -> [String; 3] {
        let (tag, game, kind) = (&self.tag, of.game, if of.from_server { "server" } else { "client" });
        [format!("{tag}:idemuse:{game}:{kind}"), format!("{tag}:idemuse"), format!("{tag}:idemcount:{game}")]
    }
}
