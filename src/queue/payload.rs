//! What a job carries: a version, a kind and a body, in few bytes (Redis costs 1.5 µs per kB with AOF).
//!
//! `[version: u8] [kind: u8] [body]`. An old version keeps its reader until no such job can exist.

use uuid::Uuid;

use crate::domain::byte_reader::{ByteReader, DamagedAt};
use crate::domain::clock::Micros;
use crate::domain::event::Event;
use crate::domain::ids::GameId;
use crate::domain::retry::RetryPolicy;

/// The version of the layout written today.
pub const VERSION: u8 = 1;

/// What a job does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Store one lane's share of one batch ([`PersistEvents`]).
    PersistEvents,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 1] = [Self::PersistEvents];

    /// How often and when a failed job of this kind is tried again.
    pub fn retry_policy(self) -> RetryPolicy {
        match self {
            Self::PersistEvents => RetryPolicy::default(),
        }
    }

    const fn code(self) -> u8 {
        match self {
            Self::PersistEvents => 1,
        }
    }

    /// Whether scores may come of it: only then do periods wait for it.
    pub const fn carries_events(self) -> bool {
        match self {
            Self::PersistEvents => true,
        }
    }

    /// Its name in logs, metrics and dead letters.
    pub const fn name(self) -> &'static str {
        match self {
            Self::PersistEvents => "persist-events",
        }
    }
}

/// Why a payload cannot be read. Such a job is a dead letter at once, unless a newer program wrote it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PayloadError {
    /// Written by a newer program, or not by this one at all.
    #[error("unknown payload version {0}")]
    UnknownVersion(u8),
    /// No such kind in this program.
    #[error("unknown job kind {0}")]
    UnknownKind(u8),
    /// Cut short or damaged.
    #[error("damaged payload at byte {0}")]
    Damaged(usize),
}

/// Versions and kinds are numbered from 1: what begins with more than this is no job of any program.
const HIGHEST: u8 = 63;

impl PayloadError {
    /// Whether a newer program wrote it, which will read it: old and new run side by side while a release rolls out.
    pub const fn is_of_a_newer_program(self) -> bool {
        match self {
            Self::UnknownVersion(version) => version > VERSION && version <= HIGHEST,
            Self::UnknownKind(kind) => kind > Kind::ALL.len() as u8 && kind <= HIGHEST,
            Self::Damaged(_) => false,
        }
    }

    /// The stable reason of the dead letter.
    pub const fn code(self) -> &'static str {
        match self {
            Self::UnknownVersion(_) => "unknown_version",
            Self::UnknownKind(_) => "unknown_kind",
            Self::Damaged(_) => "undecodable",
        }
    }
}

/// Reads the kind of a job.
///
/// # Errors
/// [`PayloadError`].
pub fn kind_of(bytes: &[u8]) -> Result<Kind, PayloadError> {
    match bytes {
        [VERSION, 1, ..] => Ok(Kind::PersistEvents),
        [VERSION, kind, ..] => Err(PayloadError::UnknownKind(*kind)),
        [version, ..] => Err(PayloadError::UnknownVersion(*version)),
        [] => Err(PayloadError::Damaged(0)),
    }
}

/// How many bytes of a job say what it does and whose it is.
pub const HEAD_BYTES: usize = 2 + 4;

/// Whose periods wait for a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    /// It carries events of this game.
    Game(GameId),
    /// Nobody's: it carries no events.
    NoEvents,
    /// This program cannot read it.
    Unknown,
}

/// Tells from the first [`HEAD_BYTES`] of a job whose periods wait for it.
pub fn owner_of(head: &[u8]) -> Owner {
    match (kind_of(head), head) {
        (Ok(kind), _) if !kind.carries_events() => Owner::NoEvents,
        (Ok(Kind::PersistEvents), [_, _, a, b, c, d, ..]) => Owner::Game(GameId(i32::from_le_bytes([*a, *b, *c, *d]))),
        _ => Owner::Unknown,
    }
}

/// Encodes a `persist-events` job: `game: i32, batch: 16, from_server: u8, count: u16`, then per event `id: 16,
/// occurred_at: i64, schema_version: i32 (i32::MIN: none), type: u8+, player: u8+, session: u8+ (0: none),
/// payload: u32+`; little-endian.
#[derive(Debug)]
pub struct PersistEventsEncoder {
    bytes: Vec<u8>,
    count: u16,
}

const COUNT_AT: usize = HEAD_BYTES + 16 + 1;

impl PersistEventsEncoder {
    /// An empty job for one batch of one game.
    pub fn new(game: GameId, batch_id: Uuid, from_server: bool, capacity: usize) -> Self {
        let mut bytes = Vec::with_capacity(capacity + COUNT_AT + 2);
        bytes.extend_from_slice(&[VERSION, Kind::PersistEvents.code()]);
        bytes.extend_from_slice(&game.0.to_le_bytes());
        bytes.extend_from_slice(batch_id.as_bytes());
        bytes.push(u8::from(from_server));
        bytes.extend_from_slice(&[0, 0]);
        Self { bytes, count: 0 }
    }

    /// Appends a valid event (its texts are within their limits).
    pub fn push(&mut self, event: &Event<'_>) {
        let b = &mut self.bytes;
        b.extend_from_slice(event.event_id.as_bytes());
        b.extend_from_slice(&event.occurred_at.0.to_le_bytes());
        b.extend_from_slice(&event.schema_version.unwrap_or(i32::MIN).to_le_bytes());
        for text in [event.event_type, event.player_id, event.session_id.unwrap_or_default()] {
            debug_assert!(text.len() <= u8::MAX as usize, "identifiers are at most 128 bytes");
            b.push(text.len() as u8);
            b.extend_from_slice(text.as_bytes());
        }
        b.extend_from_slice(&(event.payload.len() as u32).to_le_bytes());
        b.extend_from_slice(event.payload.as_bytes());
        self.count += 1;
    }

    /// How many events it holds.
    pub fn count(&self) -> u16 {
        self.count
    }

    /// The job's bytes.
    pub fn finish(mut self) -> Vec<u8> {
        self.bytes[COUNT_AT..COUNT_AT + 2].copy_from_slice(&self.count.to_le_bytes());
        self.bytes
    }
}

/// A decoded `persist-events` job, borrowing from its bytes.
#[derive(Debug, PartialEq, Eq)]
pub struct PersistEvents<'a> {
    /// Whose events these are.
    pub game_id: GameId,
    /// The batch they came in.
    pub batch_id: Uuid,
    /// Whether a server key sent them.
    pub from_server: bool,
    /// The events, in the order of the batch.
    pub events: Vec<Event<'a>>,
}

/// Decodes a `persist-events` job.
///
/// # Errors
/// [`PayloadError`] when it is of another version or kind, or damaged.
pub fn decode_persist_events(bytes: &[u8]) -> Result<PersistEvents<'_>, PayloadError> {
    let Kind::PersistEvents = kind_of(bytes)?;
    let mut r = ByteReader::new(bytes, 2);
    let game_id = GameId(r.i32()?);
    let batch_id = Uuid::from_bytes(r.take()?);
    let from_server = r.u8()? != 0;
    let count = usize::from(u16::from_le_bytes(r.take()?));
    let mut events = Vec::with_capacity(count.min(crate::domain::event::MAX_BATCH_EVENTS * 10));
    for _ in 0..count {
        let event_id = Uuid::from_bytes(r.take()?);
        let occurred_at = Micros(r.i64()?);
        let schema_version = Some(r.i32()?).filter(|v| *v != i32::MIN);
        let event_type = r.short_text()?;
        let player_id = r.short_text()?;
        let session_id = Some(r.short_text()?).filter(|s| !s.is_empty());
        let payload_len = u32::from_le_bytes(r.take()?) as usize;
        let payload = r.text(payload_len)?;
        events.push(Event { event_id, event_type, player_id, session_id, schema_version, occurred_at, payload });
    }
    if r.is_done() {
        Ok(PersistEvents { game_id, batch_id, from_server, events })
    } else {
        Err(PayloadError::Damaged(r.at()))
    }
}

/// How many events a `persist-events` job says it holds; 1 when it cannot be read. For sizing groups only.
pub fn event_count(bytes: &[u8]) -> usize {
    match bytes.get(COUNT_AT..COUNT_AT + 2) {
        Some(count) => usize::from(u16::from_le_bytes([count[0], count[1]])).max(1),
        None => 1,
    }
}

/// A job's content as JSON text for people (dead letters), or `None` when it cannot be read.
pub fn describe(bytes: &[u8]) -> Option<String> {
    let job = decode_persist_events(bytes).ok()?;
    let events: Vec<_> = job
        .events
        .iter()
        .map(|e| {
            let payload = serde_json::value::RawValue::from_string(e.payload.to_owned()).ok();
            DescribedEvent {
                event_id: e.event_id,
                event_type: e.event_type,
                player_id: e.player_id,
                session_id: e.session_id,
                schema_version: e.schema_version,
                occurred_at: e.occurred_at,
                // A payload that is no JSON is what the letter may be about: shown as text.
                payload_text: payload.is_none().then_some(e.payload),
                payload,
            }
        })
        .collect();
    let described = serde_json::json!({
        "kind": Kind::PersistEvents.name(),
        "game_id": job.game_id,
        "batch_id": job.batch_id,
        "from_server": job.from_server,
    });
    let mut text = described.to_string();
    text.pop();
    text.push_str(",\"events\":");
    text.push_str(&serde_json::to_string(&events).ok()?);
    text.push('}');
    Some(text)
}

#[derive(serde::Serialize)]
struct DescribedEvent<'a> {
    event_id: Uuid,
    #[serde(rename = "type")]
    event_type: &'a str,
    player_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    session_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    schema_version: Option<i32>,
    occurred_at: Micros,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload: Option<Box<serde_json::value::RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload_text: Option<&'a str>,
}

impl From<DamagedAt> for PayloadError {
    fn from(DamagedAt(at): DamagedAt) -> Self {
        Self::Damaged(at)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_job_reads_back_as_it_was() {
        let event = Event {
            event_id: Uuid::from_u128(7),
            event_type: "game_ended",
            player_id: "p-17",
            session_id: None,
            schema_version: Some(3),
            occurred_at: Micros(5),
            payload: "{\"score\":1}",
        };
        let other = Event { session_id: Some("s-1"), schema_version: None, payload: "{}", ..event };
        let mut encoder = PersistEventsEncoder::new(GameId(4), Uuid::from_u128(1), true, 0);
        encoder.push(&event);
        encoder.push(&other);
        let bytes = encoder.finish();
        let decoded = decode_persist_events(&bytes).unwrap();
        assert_eq!((decoded.game_id, decoded.from_server), (GameId(4), true));
        assert_eq!(decoded.events, [event, other]);
        for cut in 0..bytes.len() {
            assert!(decode_persist_events(&bytes[..cut]).is_err(), "cut at {cut}");
        }
    }

    #[test]
    fn the_first_bytes_of_a_job_tell_whose_it_is() {
        let bytes = PersistEventsEncoder::new(GameId(-4), Uuid::from_u128(1), true, 0).finish();
        assert_eq!(owner_of(&bytes[..HEAD_BYTES]), Owner::Game(GameId(-4)));
        for unknown in [&[][..], &[VERSION, 1, 0], &[VERSION, 2, 0, 0, 0, 0], &[VERSION + 9, 1, 4, 0, 0, 0]] {
            assert_eq!(owner_of(unknown), Owner::Unknown, "{unknown:?}");
        }
    }

    proptest! {
        #[test]
        fn decoding_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode_persist_events(&bytes);
            let mut framed = vec![VERSION, 1];
            framed.extend(bytes);
            let _ = decode_persist_events(&framed);
        }
    }
}
