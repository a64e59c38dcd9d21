//! One thing that happened, after validation.

use uuid::Uuid;

use super::clock::Micros;

/// The largest payload of one event in bytes of JSON text, and the largest event.
pub const MAX_EVENT_BYTES: usize = 32 * 1024;
/// The most events in one batch.
pub const MAX_BATCH_EVENTS: usize = 100;

/// A valid event, borrowed from the bytes it was read from (a request body, or a queued job).
///
/// Its identity is `(game, event_id, occurred_at)` (ARCHITECTURE.md#invariants).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Event<'a> {
    /// Chosen by the client (a non-UUID id is hashed to a UUIDv5 at the edge), or assigned by the server.
    pub event_id: Uuid,
    /// What kind of thing happened.
    pub event_type: &'a str,
    /// Who did it.
    pub player_id: &'a str,
    /// The client's session, if it told one.
    pub session_id: Option<&'a str>,
    /// The version of the payload's shape, if the client told one.
    pub schema_version: Option<i32>,
    /// When it happened, by the client's (checked) clock. Decides the period.
    pub occurred_at: Micros,
    /// The payload's JSON text, an object, byte for byte as the client sent it.
    pub payload: &'a str,
}
