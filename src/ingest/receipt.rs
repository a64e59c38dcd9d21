//! The answer to a batch, and what of it is remembered under an `Idempotency-Key`
//! (docs/rules.md#a-repeat-keeps-its-receipt).
//!
//! A receipt follows from the body, the batch id, the time it came and one byte per event, so that little is stored.

use axum::body::Body;
use axum::http::{HeaderValue, Response, StatusCode, header};
use uuid::Uuid;

use super::batch::{Batch, Counts, count};
use super::body_hash::{BodyHash, hash_bytes, hash_events};
use super::settings::IngestConfig;
use super::validate::assigned_id;
use super::wire_event::{Field, WireEvent};
use crate::domain::clock::Micros;
use crate::domain::ids::check_identifier;
use crate::domain::verdict::{Outcome, Refusal, Verdict};
use crate::http::problem;

/// How long a receipt is remembered.
pub const REMEMBER_MS: u64 = 24 * 3_600 * 1_000;
/// Receipts of version 1 have the hash of the body's bytes, those of version 2 the hash of what its events say.
const VERSION: u8 = 2;
const VERSION_OF_BYTES: u8 = 1;
const HEAD_LEN: usize = 1 + 32 + 16 + 8 + 4;

/// What a receipt is made of, besides the events as written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receipt {
    /// The batch.
    pub batch_id: Uuid,
    /// When it came.
    pub now: Micros,
    /// Seconds until what is over a limit fits again; 0: nothing is.
    pub retry_after: u32,
    /// What became of each event.
    pub outcomes: Vec<Outcome>,
}

/// A receipt as it was remembered, with the hash of its body, by the rule of its version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remembered {
    /// The receipt.
    pub receipt: Receipt,
    version: u8,
    hash: BodyHash,
}

impl Remembered {
    /// Reads what [`Receipt::to_bytes`] made, of this version or an older one; `None` when a newer program wrote it.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (head, outcomes) = bytes.split_at_checked(HEAD_LEN)?;
        let version = head[0];
        if !matches!(version, VERSION_OF_BYTES | VERSION) {
            return None;
        }
        let receipt = Receipt {
            batch_id: Uuid::from_slice(&head[33..49]).ok()?,
            now: Micros(i64::from_le_bytes(head[49..57].try_into().ok()?)),
            retry_after: u32::from_le_bytes(head[57..61].try_into().ok()?),
            outcomes: outcomes.iter().map(|byte| Outcome::from_byte(*byte)).collect::<Option<_>>()?,
        };
        Some(Self { receipt, version, hash: head[1..33].try_into().ok()? })
    }

    /// Whether it is of this body, whose events are `wires`.
    pub fn is_of(&self, body: &[u8], wires: &[WireEvent<'_>]) -> bool {
        let hash = if self.version == VERSION_OF_BYTES { hash_bytes(body) } else { hash_events(wires) };
        // The same bytes may be read as another format by another content type: another batch.
        hash == self.hash && self.receipt.outcomes.len() == wires.len()
    }
}

impl Receipt {
    /// What became of a batch.
    pub(super) fn of(batch: &Batch<'_>) -> Self {
        Self {
            batch_id: batch.id,
            now: batch.now,
            retry_after: batch.retry_after,
            outcomes: batch.events.iter().map(|judged| judged.outcome).collect(),
        }
    }

    /// How many events have each verdict.
    pub fn counts(&self) -> Counts {
        count(self.outcomes.iter().copied())
    }

    /// The status: something is queued, or nothing would ever be, or nothing is for now.
    pub fn status(&self) -> StatusCode {
        let counts = self.counts();
        match (counts.accepted, counts.retry) {
            (0, 0) => StatusCode::UNPROCESSABLE_ENTITY,
            (0, _) => StatusCode::TOO_MANY_REQUESTS,
            _ => StatusCode::ACCEPTED,
        }
    }

    /// As remembered, with the hash of what its events say.
    pub fn to_bytes(&self, hash: &BodyHash) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEAD_LEN + self.outcomes.len());
        bytes.push(VERSION);
        bytes.extend_from_slice(hash);
        bytes.extend_from_slice(self.batch_id.as_bytes());
        bytes.extend_from_slice(&self.now.0.to_le_bytes());
        bytes.extend_from_slice(&self.retry_after.to_le_bytes());
        bytes.extend(self.outcomes.iter().map(|outcome| outcome.to_byte()));
        bytes
    }

    /// The answer. `retry_safe`: whether sending the batch again cannot count an event twice.
    pub fn respond(&self, wires: &[WireEvent<'_>], keyed: bool, config: &IngestConfig) -> Response<Body> {
        let status = self.status();
        let mut body = Vec::with_capacity(192);
        body.push(b'{');
        match status {
            StatusCode::ACCEPTED => {}
            StatusCode::TOO_MANY_REQUESTS => {
                let detail = "every event that could be queued is over a limit; nothing was queued";
                self.write_problem(&mut body, status, "events_over_limit", detail);
            }
            _ => {
                self.write_problem(&mut body, status, "all_events_rejected", "no event of the batch could be accepted")
            }
        }
        self.write_head(&mut body, wires, keyed);
        self.write_results(&mut body, wires, config);
        body.push(b'}');

        let mut response = Response::new(Body::from(body));
        *response.status_mut() = status;
        let content_type = if status == StatusCode::ACCEPTED {
            HeaderValue::from_static("application/json")
        } else {
            problem::CONTENT_TYPE
        };
        response.headers_mut().insert(header::CONTENT_TYPE, content_type);
        if self.retry_after > 0 {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(self.retry_after));
        }
        response
    }

    fn write_problem(&self, body: &mut Vec<u8>, status: StatusCode, code: &str, detail: &str) {
        let title = status.canonical_reason().unwrap_or_default();
        for part in
            ["\"type\":\"urn:scoreline:problem:", code, "\",\"title\":\"", title, "\",\"status\":", status.as_str()]
        {
            body.extend_from_slice(part.as_bytes());
        }
        for part in [",\"code\":\"", code, "\",\"detail\":\"", detail, "\","] {
            body.extend_from_slice(part.as_bytes());
        }
        if self.retry_after > 0 {
            body.extend_from_slice(b"\"retry_after\":");
            write_number(body, self.retry_after as usize);
            body.push(b',');
        }
    }

    fn write_head(&self, body: &mut Vec<u8>, wires: &[WireEvent<'_>], keyed: bool) {
        let counts = self.counts();
        body.extend_from_slice(b"\"batch_id\":\"");
        write_uuid(body, self.batch_id);
        body.push(b'"');
        for (name, number) in [
            (",\"received\":", self.outcomes.len()),
            (",\"accepted\":", counts.accepted),
            (",\"duplicate\":", counts.duplicate),
            (",\"rejected\":", counts.rejected),
            (",\"retry\":", counts.retry),
        ] {
            body.extend_from_slice(name.as_bytes());
            write_number(body, number);
        }
        let assigned = |(wire, outcome): (&WireEvent<'_>, &Outcome)| {
            matches!(outcome, Outcome::Accepted(_)) && wire.event_id == Field::Absent
        };
        if !keyed && wires.iter().zip(&self.outcomes).any(assigned) {
            body.extend_from_slice(b",\"retry_safe\":false");
        }
    }

    fn write_results(&self, body: &mut Vec<u8>, wires: &[WireEvent<'_>], config: &IngestConfig) {
        body.extend_from_slice(b",\"results\":[");
        let mut first = true;
        for (index, (wire, outcome)) in wires.iter().zip(&self.outcomes).enumerate() {
            if *outcome == Outcome::Accepted(None) && wire.event_id != Field::Absent {
                continue;
            }
            if !first {
                body.push(b',');
            }
            first = false;
            self.write_row(body, index, wire, *outcome, config);
        }
        body.push(b']');
    }

    fn write_row(
        &self,
        body: &mut Vec<u8>,
        index: usize,
        wire: &WireEvent<'_>,
        outcome: Outcome,
        config: &IngestConfig,
    ) {
        body.extend_from_slice(b"{\"index\":");
        write_number(body, index);
        body.extend_from_slice(b",\"event_id\":");
        match &wire.event_id {
            // An identifier needs no escapes.
            Field::Text(text) if check_identifier(text).is_ok() => write_quoted(body, text),
            Field::Absent if matches!(outcome, Outcome::Accepted(_)) => {
                body.push(b'"');
                write_uuid(body, assigned_id(self.batch_id, index));
                body.push(b'"');
            }
            _ => body.extend_from_slice(b"null"),
        }
        body.extend_from_slice(b",\"status\":");
        write_quoted(body, outcome.verdict().name());
        // Of an accepted event there is only a warning, which has a member of its own.
        if let Some(code) = outcome.code().filter(|_| outcome.verdict() != Verdict::Accepted) {
            body.extend_from_slice(b",\"code\":");
            write_quoted(body, code);
        }
        match outcome {
            Outcome::Accepted(Some(warning)) => {
                body.extend_from_slice(b",\"warning\":");
                write_quoted(body, warning.code());
                write_message(body, warning.message());
            }
            Outcome::Accepted(None) => {}
            Outcome::Duplicate => {
                write_message(body, "an earlier event of this batch has the same event_id and occurred_at")
            }
            Outcome::Rejected(refusal) => {
                body.extend_from_slice(b",\"field\":");
                write_quoted(body, refusal.field());
                write_message(body, &self.explain(refusal, wire, config));
            }
            Outcome::Retry(over) => {
                body.extend_from_slice(b",\"retry_after\":");
                write_number(body, self.retry_after as usize);
                write_message(body, over.message());
            }
        }
        body.push(b'}');
    }

    fn explain(&self, refusal: Refusal, wire: &WireEvent<'_>, config: &IngestConfig) -> String {
        match refusal {
            Refusal::OccurredAtTooOld if self.is_in_seconds(wire, config) => format!(
                "occurred_at counts milliseconds since the Unix epoch; did you send seconds? The server's time is {}",
                self.now
            ),
            Refusal::TooLarge => format!("an event may have at most {} bytes", config.max_event_bytes),
            Refusal::OccurredAtTooOld => format!(
                "occurred_at may be at most {} s ago; the server's time is {}",
                config.max_event_age_seconds, self.now
            ),
            Refusal::OccurredAtInFuture => format!(
                "occurred_at may be at most {} s ahead; the server's time is {}",
                config.max_event_ahead_seconds, self.now
            ),
            other => other.to_string(),
        }
    }

    /// Whether a time that is too old would do if it were seconds.
    fn is_in_seconds(&self, wire: &WireEvent<'_>, config: &IngestConfig) -> bool {
        let Field::Integer(number) = wire.occurred_at else { return false };
        let ago = self.now.0 / 1_000_000 - number;
        (-i64::from(config.max_event_ahead_seconds)..=i64::from(config.max_event_age_seconds)).contains(&ago)
    }
}

fn write_number(body: &mut Vec<u8>, number: usize) {
    body.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}

fn write_uuid(body: &mut Vec<u8>, uuid: Uuid) {
    body.extend_from_slice(uuid.hyphenated().encode_lower(&mut Uuid::encode_buffer()).as_bytes());
}

/// Writes a text that has nothing to escape.
fn write_quoted(body: &mut Vec<u8>, text: &str) {
    body.push(b'"');
    body.extend_from_slice(text.as_bytes());
    body.push(b'"');
}

/// Writes a message of ours; none has anything to escape.
fn write_message(body: &mut Vec<u8>, message: &str) {
    body.extend_from_slice(b",\"message\":");
    write_quoted(body, message);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_receipt_is_remembered_in_few_bytes() {
        let receipt = Receipt {
            batch_id: Uuid::from_u128(7),
            now: Micros(8),
            retry_after: 9,
            outcomes: (0..100).map(|byte| Outcome::from_byte(byte % 46).unwrap()).collect(),
        };
        let bytes = receipt.to_bytes(&[7; 32]);
        assert!(bytes.len() <= 400, "{}", bytes.len());
        assert_eq!(Remembered::from_bytes(&bytes), Some(Remembered { receipt, version: 2, hash: [7; 32] }));
        assert_eq!(Remembered::from_bytes(&bytes[..40]), None);
        assert_eq!(Remembered::from_bytes(&[9; 100]), None);
    }

    #[test]
    fn a_receipt_of_version_1_is_compared_by_the_bytes_of_the_body() {
        let body = br#"[{"type":"t","player_id":"p"}]"#;
        let mut golden = vec![1];
        golden.extend_from_slice(&hash_bytes(body));
        golden.extend_from_slice(&[7; 16]);
        golden.extend_from_slice(&8i64.to_le_bytes());
        golden.extend_from_slice(&0u32.to_le_bytes());
        golden.push(0);
        let remembered = Remembered::from_bytes(&golden).unwrap();
        let wires = [WireEvent::default()];
        assert!(remembered.is_of(body, &wires));
        assert!(!remembered.is_of(b"[ {}]", &wires) && !remembered.is_of(body, &[]));
    }

    #[test]
    fn no_message_needs_escaping() {
        for byte in 0..46 {
            if let Some(Outcome::Rejected(refusal)) = Outcome::from_byte(byte) {
                assert!(!refusal.to_string().contains(['"', '\\']), "{refusal}");
            }
        }
    }
}
