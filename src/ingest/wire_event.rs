//! An event as a client wrote it: its fields found, not yet judged.
//!
//! Reading is lenient by design: a field of the wrong JSON type is noted, not an error, so that one pass over the body
//! finds every event and one bad event costs no other. Fields that are not an event's are skipped.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use crate::domain::verdict::Refusal;

/// A field's value: what an event's fields can be, and "something else".
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Field<'a> {
    /// Not there, or `null`: serializers write `null` for "none".
    #[default]
    Absent,
    /// A string; borrowed unless it has escapes.
    Text(Cow<'a, str>),
    /// An integer in `i64`.
    Integer(i64),
    /// Anything else.
    Other,
}

/// An event as found in a body.
#[derive(Debug, Clone, Default)]
pub struct WireEvent<'a> {
    /// `event_id`.
    pub event_id: Field<'a>,
    /// `type`.
    pub event_type: Field<'a>,
    /// `player_id`.
    pub player_id: Field<'a>,
    /// `session_id`.
    pub session_id: Field<'a>,
    /// `schema_version`.
    pub schema_version: Field<'a>,
    /// `occurred_at`.
    pub occurred_at: Field<'a>,
    /// The JSON text of `payload`; `None` when absent or `null`.
    pub payload: Option<&'a str>,
    /// What is wrong with the event as a whole.
    pub defect: Option<Refusal>,
}

/// The fields of an event, and of the envelope a batch may come in.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Name {
    /// `event_id`.
    EventId,
    /// `type`.
    Type,
    /// `player_id`.
    PlayerId,
    /// `session_id`.
    SessionId,
    /// `schema_version`.
    SchemaVersion,
    /// `occurred_at`.
    OccurredAt,
    /// `payload`.
    Payload,
    /// `events`, of an envelope.
    Events,
    /// Any other.
    Other,
}

impl<'a> WireEvent<'a> {
    /// An event that could not be read at all.
    pub fn defective(defect: Refusal) -> Self {
        Self { defect: Some(defect), ..Self::default() }
    }

    /// About how many bytes its known parts took in the body.
    pub fn known_len(&self) -> usize {
        let field = |f: &Field<'_>| if let Field::Text(text) = f { text.len() } else { 0 };
        self.payload.map_or(0, str::len)
            + field(&self.event_id)
            + field(&self.event_type)
            + field(&self.player_id)
            + field(&self.session_id)
            + field(&self.occurred_at)
    }

    /// Reads the value of the field `name` from `map`; `seen` tells the fields that it has already.
    ///
    /// # Errors
    /// What the JSON parser finds.
    pub fn read_field<M: MapAccess<'a>>(&mut self, name: Name, map: &mut M, seen: &mut u16) -> Result<(), M::Error> {
        let bit = 1u16 << name as u16;
        if name != Name::Other && *seen & bit != 0 {
            self.defect = Some(Refusal::RepeatedField);
        }
        *seen |= bit;
        let field = match name {
            Name::EventId => &mut self.event_id,
            Name::Type => &mut self.event_type,
            Name::PlayerId => &mut self.player_id,
            Name::SessionId => &mut self.session_id,
            Name::SchemaVersion => &mut self.schema_version,
            Name::OccurredAt => &mut self.occurred_at,
            Name::Payload => {
                let raw: &'a RawValue = map.next_value()?;
                self.payload = Some(raw.get()).filter(|json| *json != "null");
                return Ok(());
            }
            Name::Events | Name::Other => return map.next_value::<IgnoredAny>().map(|_| ()),
        };
        *field = map.next_value()?;
        Ok(())
    }
}

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct NameVisitor;
        impl Visitor<'_> for NameVisitor {
            type Value = Name;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a member name")
            }

            fn visit_str<E>(self, name: &str) -> Result<Name, E> {
                Ok(match name {
                    "event_id" => Name::EventId,
                    "type" => Name::Type,
                    "player_id" => Name::PlayerId,
                    "session_id" => Name::SessionId,
                    "schema_version" => Name::SchemaVersion,
                    "occurred_at" => Name::OccurredAt,
                    "payload" => Name::Payload,
                    "events" => Name::Events,
                    _ => Name::Other,
                })
            }
        }
        d.deserialize_identifier(NameVisitor)
    }
}

/// The methods by which a visitor takes scalars it has no use for.
macro_rules! scalars_are {
    ($value:expr, $($method:ident: $of:ty),+) => {
        $(fn $method<E>(self, _: $of) -> Result<Self::Value, E> {
            Ok($value)
        })+
    };
}

impl<'de> Deserialize<'de> for Field<'de> {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct FieldVisitor;
        impl<'de> Visitor<'de> for FieldVisitor {
            type Value = Field<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("any value")
            }

            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(Field::Text(Cow::Borrowed(text)))
            }

            fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
                Ok(Field::Text(Cow::Owned(text.to_owned())))
            }

            fn visit_i64<E>(self, value: i64) -> Result<Self::Value, E> {
                Ok(Field::Integer(value))
            }

            fn visit_u64<E>(self, value: u64) -> Result<Self::Value, E> {
                Ok(i64::try_from(value).map_or(Field::Other, Field::Integer))
            }

            fn visit_unit<E>(self) -> Result<Self::Value, E> {
                Ok(Field::Absent)
            }

            scalars_are!(Field::Other, visit_bool: bool, visit_f64: f64);

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
                while seq.next_element::<IgnoredAny>()?.is_some() {}
                Ok(Field::Other)
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                Ok(Field::Other)
            }
        }
        d.deserialize_any(FieldVisitor)
    }
}

impl<'de> Deserialize<'de> for WireEvent<'de> {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct EventVisitor;
        impl<'de> Visitor<'de> for EventVisitor {
            type Value = WireEvent<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an event")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut event = WireEvent::default();
                let mut seen = 0;
                while let Some(name) = map.next_key::<Name>()? {
                    event.read_field(name, &mut map, &mut seen)?;
                }
                Ok(event)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
                while seq.next_element::<IgnoredAny>()?.is_some() {}
                Ok(WireEvent::defective(Refusal::NotAnObject))
            }

            fn visit_unit<E>(self) -> Result<Self::Value, E> {
                Ok(WireEvent::defective(Refusal::NotAnObject))
            }

            scalars_are!(WireEvent::defective(Refusal::NotAnObject),
                visit_bool: bool, visit_f64: f64, visit_i64: i64, visit_u64: u64, visit_str: &str);
        }
        d.deserialize_any(EventVisitor)
    }
}
