//! The worker's metrics, as handles that are looked up once.

use std::time::Duration;

use metrics::{Counter, Gauge, Histogram, counter, gauge, histogram};

use super::payload::Kind;
use crate::telemetry::metrics::{JOB_OUTCOMES, JOB_SECONDS, QUEUE_FETCHES, QUEUE_IN_HAND, QUEUE_RESCUED};

const ROLE: &str = "worker";
const OUTCOMES: [&str; 5] = ["done", "transient", "blocked", "retry", "fail"];
/// The kind of a job that this program does not know.
const UNKNOWN: &str = "unknown";

/// Handles of every series that a worker writes.
pub(super) struct Meters {
    kinds: Vec<(Option<Kind>, Histogram, [Counter; OUTCOMES.len()])>,
    pub fetched: Counter,
    pub fetched_nothing: Counter,
    pub fetch_failed: Counter,
    pub rescued: Counter,
    pub in_hand: Gauge,
}

impl Meters {
    pub fn new() -> Self {
        let kinds = Kind::ALL.into_iter().map(Some).chain([None]).map(|kind| {
            let name = kind.map_or(UNKNOWN, Kind::name);
            let outcomes = OUTCOMES.map(|o| counter!(JOB_OUTCOMES, "role" => ROLE, "kind" => name, "outcome" => o));
            (kind, histogram!(JOB_SECONDS, "role" => ROLE, "kind" => name), outcomes)
        });
        let fetches = |outcome: &'static str| counter!(QUEUE_FETCHES, "role" => ROLE, "outcome" => outcome);
        Self {
            kinds: kinds.collect(),
            fetched: fetches("jobs"),
            fetched_nothing: fetches("empty"),
            fetch_failed: fetches("error"),
            rescued: counter!(QUEUE_RESCUED, "role" => ROLE),
            in_hand: gauge!(QUEUE_IN_HAND, "role" => ROLE),
        }
    }

    /// A job of `kind` was settled after `took` in hand.
    pub fn settled(&self, kind: Option<Kind>, outcome: &str, took: Duration) {
        let Some((_, seconds, outcomes)) = self.kinds.iter().find(|(k, ..)| *k == kind) else { return };
        seconds.record(took);
        if let Some(at) = OUTCOMES.iter().position(|o| *o == outcome) {
            outcomes[at].increment(1);
        }
    }
}
