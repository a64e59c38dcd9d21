//! From an event as written to a valid one, or the reason why not. Nothing here panics, whatever the client sent.

use uuid::Uuid;

use super::wire_event::{Field, WireEvent};
use crate::domain::clock::Micros;
use crate::domain::event::Event;
use crate::domain::ids::{IdProblem, check_identifier};
use crate::domain::payload_check::PayloadChecker;
use crate::domain::rfc3339;
use crate::domain::verdict::{Refusal, TextProblem};

/// The namespace in which an `event_id` that is no UUID becomes one:
/// `event_id = UUIDv5(EVENT_ID_NAMESPACE, text)`. It is itself UUIDv5(DNS, "event-id.scoreline"). Stored data depends
/// on it.
pub const EVENT_ID_NAMESPACE: Uuid = Uuid::from_u128(0x2b1b_71db_ab1a_5bd2_ba5e_34af_93c2_8135);

/// What validation must know besides the event.
#[derive(Debug, Clone, Copy)]
pub struct Rules {
    /// The server's time.
    pub now: Micros,
    /// How old an event may be, in seconds.
    pub max_age_seconds: u32,
    /// How far ahead of `now` it may be, in seconds.
    pub max_ahead_seconds: u32,
    /// The batch it came in: server-assigned ids derive from it.
    pub batch_id: Uuid,
}

/// A valid event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Valid<'a> {
    /// The event.
    pub event: Event<'a>,
    /// Whether the server chose its `event_id`.
    pub assigned: bool,
}

/// Judges the event at `index` of a batch.
///
/// # Errors
/// The first [`Refusal`] found.
pub fn validate<'a>(
    wire: &'a WireEvent<'_>,
    index: usize,
    rules: &Rules,
    checker: &mut PayloadChecker,
) -> Result<Valid<'a>, Refusal> {
    if let Some(defect) = wire.defect {
        return Err(defect);
    }
    let event_type = required(&wire.event_type).map_err(Refusal::Type)?;
    let player_id = required(&wire.player_id).map_err(Refusal::PlayerId)?;
    let given = event_id(&wire.event_id).map_err(Refusal::EventId)?;
    let occurred_at = occurred_at(&wire.occurred_at, given, rules)?;
    let session_id = optional(&wire.session_id).map_err(Refusal::SessionId)?;
    let schema_version = schema_version(&wire.schema_version)?;
    let payload = wire.payload.unwrap_or("{}");
    checker.check(payload).map_err(Refusal::Payload)?;
    let event_id = given.unwrap_or_else(|| assigned_id(rules.batch_id, index));
    Ok(Valid {
        event: Event { event_id, event_type, player_id, session_id, schema_version, occurred_at, payload },
        assigned: given.is_none(),
    })
}

/// The id that the server gives the event at `index` of a batch: the batch's own UUIDv7 with the low bits changed, so
/// that a receipt can be rebuilt and ids sort by time.
pub fn assigned_id(batch_id: Uuid, index: usize) -> Uuid {
    Uuid::from_u128(batch_id.as_u128() ^ (index as u128 + 1))
}

fn optional<'a>(field: &'a Field<'_>) -> Result<Option<&'a str>, TextProblem> {
    match field {
        Field::Absent => Ok(None),
        Field::Text(text) => check_identifier(text).map(|()| Some(text.as_ref())).map_err(TextProblem::Id),
        Field::Integer(_) | Field::Other => Err(TextProblem::NotText),
    }
}

fn required<'a>(field: &'a Field<'_>) -> Result<&'a str, TextProblem> {
    optional(field)?.ok_or(TextProblem::Missing)
}

fn event_id(field: &Field<'_>) -> Result<Option<Uuid>, TextProblem> {
    if let Field::Text(text) = field
        && let Some(uuid) = written_uuid(text)
    {
        return if uuid.is_nil() { Err(TextProblem::Id(IdProblem::Placeholder)) } else { Ok(Some(uuid)) };
    }
    Ok(optional(field)?.map(|text| Uuid::new_v5(&EVENT_ID_NAMESPACE, text.as_bytes())))
}

/// A UUID in its 36-character form, or as 32 hex digits; in either case of letters.
fn written_uuid(text: &str) -> Option<Uuid> {
    if matches!(text.len(), 36 | 32) { Uuid::try_parse(text).ok() } else { None }
}

fn occurred_at(field: &Field<'_>, event_id: Option<Uuid>, rules: &Rules) -> Result<Micros, Refusal> {
    let at = match field {
        Field::Text(text) => rfc3339::parse(text).ok_or(Refusal::OccurredAtInvalid)?,
        Field::Integer(millis) => Micros(millis.checked_mul(1_000).ok_or(Refusal::OccurredAtInvalid)?),
        Field::Other => return Err(Refusal::OccurredAtInvalid),
        Field::Absent => match event_id {
            None => return Ok(rules.now),
            Some(id) => v7_time(id).ok_or(Refusal::OccurredAtRequired)?,
        },
    };
    if at < rules.now.plus_seconds(-i64::from(rules.max_age_seconds)) {
        return Err(Refusal::OccurredAtTooOld);
    }
    if at > rules.now.plus_seconds(i64::from(rules.max_ahead_seconds)) {
        return Err(Refusal::OccurredAtInFuture);
    }
    Ok(at)
}

/// The time that a UUIDv7 carries (RFC 9562, 5.7).
fn v7_time(id: Uuid) -> Option<Micros> {
    (id.get_version_num() == 7).then(|| Micros::from_millis((id.as_u128() >> 80) as i64))
}

fn schema_version(field: &Field<'_>) -> Result<Option<i32>, Refusal> {
    match field {
        Field::Absent => Ok(None),
        Field::Integer(value) if *value >= 0 => i32::try_from(*value).map(Some).map_err(|_| Refusal::SchemaVersion),
        _ => Err(Refusal::SchemaVersion),
    }
}

#[cfg(test)]
#[path = "validate_tests.rs"]
mod tests;
