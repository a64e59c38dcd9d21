//! What ingest counts of itself.

use std::time::Duration;

use axum::http::StatusCode;
use metrics::{Counter, Histogram, counter, histogram};

use crate::domain::verdict::Outcome;
use crate::telemetry::metrics::{HTTP_REQUEST_SECONDS, INGEST_LIMITED, INGEST_VERDICTS};

const ROLE: &str = "ingest";

/// Handles of the hot path; the rest is looked up when it happens.
pub struct Measures {
    verdicts: Vec<Counter>,
    accepted_requests: Histogram,
}

impl std::fmt::Debug for Measures {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Measures")
    }
}

impl Measures {
    /// Registers them; the recorder must be installed by then.
    pub fn new() -> Self {
        let verdict = |outcome: Outcome| {
            let (verdict, code) = (outcome.verdict().name(), outcome.code().unwrap_or(""));
            counter!(INGEST_VERDICTS, "role" => ROLE, "verdict" => verdict, "code" => code)
        };
        let accepted_requests = histogram!(HTTP_REQUEST_SECONDS,
            "role" => ROLE, "route" => "/v1/events", "status" => "202");
        Self { verdicts: (0..=u8::MAX).map_while(Outcome::from_byte).map(verdict).collect(), accepted_requests }
    }

    /// A batch was answered.
    pub fn verdicts(&self, outcomes: &[Outcome]) {
        let plain = outcomes.iter().filter(|outcome| **outcome == Outcome::Accepted(None)).count();
        if plain > 0 {
            self.count(Outcome::Accepted(None), plain as u64);
        }
        for outcome in outcomes.iter().filter(|outcome| **outcome != Outcome::Accepted(None)) {
            self.count(*outcome, 1);
        }
    }

    fn count(&self, outcome: Outcome, events: u64) {
        if let Some(counter) = self.verdicts.get(usize::from(outcome.to_byte())) {
            counter.increment(events);
        }
    }

    /// A request was answered.
    pub fn request(&self, route: &'static str, status: StatusCode, took: Duration) {
        if status == StatusCode::ACCEPTED {
            self.accepted_requests.record(took);
        } else {
            let status = status.as_str().to_owned();
            histogram!(HTTP_REQUEST_SECONDS, "role" => ROLE, "route" => route, "status" => status).record(took);
        }
    }

    /// A limit refused a request or events; `by`: who knew (`redis`, `cache`, `local`).
    pub fn limited(&self, limit: &'static str, by: &'static str) {
        counter!(INGEST_LIMITED, "role" => ROLE, "limit" => limit, "by" => by).increment(1);
    }
}
