//! The native format: an array of events, one event, `{"events":[…]}`, or an event a line (NDJSON).
//!
//! The whole body is read in one pass with events borrowing from it. Only when that fails, or when an event could be
//! larger than it may be, are the events cut out first and then read one by one, so that what is wrong with one costs
//! that one only.

use std::fmt;
use std::marker::PhantomData;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::super::wire_event::{Name, WireEvent};
use super::{BodyProblem, Format};
use crate::domain::json_words::in_words;
use crate::domain::verdict::Refusal;

/// How much a batch may hold.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Most events.
    pub events: usize,
    /// Most bytes of one event.
    pub event_bytes: usize,
}

/// Reads a body.
///
/// # Errors
/// [`BodyProblem`] when there is no batch in it.
pub fn read(format: Format, body: &[u8], bounds: Bounds) -> Result<Vec<WireEvent<'_>>, BodyProblem> {
    // Some platforms write a byte order mark before UTF-8.
    let body = body.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(body);
    let events = match format {
        Format::Json => read_json(std::str::from_utf8(body).map_err(|_| BodyProblem::NotUtf8)?, bounds)?,
        Format::NdJson => read_lines(body, bounds)?,
    };
    if events.is_empty() { Err(BodyProblem::Empty) } else { Ok(events) }
}

fn read_json(text: &str, bounds: Bounds) -> Result<Vec<WireEvent<'_>>, BodyProblem> {
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let whole = match text.trim_start().as_bytes().first() {
        Some(b'{') => deserializer.deserialize_map(ObjectBody { limit: bounds.events }),
        _ => Elements::new(bounds.events).deserialize(&mut deserializer),
    };
    match whole.and_then(|events| deserializer.end().map(|()| events)) {
        Ok(events) if small_enough(text.len(), &events, bounds) => Ok(events),
        _ => read_one_by_one(text, bounds),
    }
}

/// Whether no event can be larger than it may be: what is not a known part of some event, together with the largest
/// known parts, bounds every event.
fn small_enough(body_len: usize, events: &[WireEvent<'_>], bounds: Bounds) -> bool {
    if body_len <= bounds.event_bytes {
        return true;
    }
    let (sum, largest) = events.iter().fold((0, 0), |(sum, largest), event| {
        let known = event.known_len();
        (sum + known, largest.max(known))
    });
    // A text is never longer than it was written, so `sum` is at most the body's length.
    body_len.saturating_sub(sum) + largest <= bounds.event_bytes
}

/// The careful way: cuts events out, then reads each alone. Also finds out what is wrong with a body.
fn read_one_by_one(text: &str, bounds: Bounds) -> Result<Vec<WireEvent<'_>>, BodyProblem> {
    #[derive(Deserialize)]
    struct Envelope<'a> {
        #[serde(borrow, default)]
        events: Option<&'a RawValue>,
    }
    let not_json = |error: serde_json::Error| BodyProblem::NotJson(in_words(&error));
    let whole: &RawValue = serde_json::from_str(text).map_err(not_json)?;
    let array = match whole.get().as_bytes().first() {
        Some(b'[') => whole.get(),
        Some(b'{') => match serde_json::from_str::<Envelope<'_>>(whole.get()) {
            Ok(Envelope { events: Some(events) }) if events.get().starts_with('[') => events.get(),
            Ok(Envelope { events: Some(_) }) => return Err(BodyProblem::WrongShape),
            Ok(Envelope { events: None }) => return Ok(vec![read_event(whole.get(), bounds)]),
            // It is JSON, and names 'events' twice.
            Err(_) => return Err(BodyProblem::WrongShape),
        },
        _ => return Err(BodyProblem::WrongShape),
    };
    let mut deserializer = serde_json::Deserializer::from_str(array);
    let slices: Vec<&RawValue> =
        Elements::new(bounds.events).deserialize(&mut deserializer).map_err(|error| match error.classify() {
            serde_json::error::Category::Data => BodyProblem::TooManyEvents { limit: bounds.events },
            _ => not_json(error),
        })?;
    Ok(slices.into_iter().map(|slice| read_event(slice.get(), bounds)).collect())
}

/// Reads one event from its own JSON text.
fn read_event(json: &str, bounds: Bounds) -> WireEvent<'_> {
    if json.len() > bounds.event_bytes {
        return WireEvent::defective(Refusal::TooLarge);
    }
    serde_json::from_str(json).unwrap_or_else(|_| WireEvent::defective(Refusal::Malformed))
}

fn read_lines(body: &[u8], bounds: Bounds) -> Result<Vec<WireEvent<'_>>, BodyProblem> {
    let mut events = Vec::new();
    let mut any_json = false;
    for line in body.split(|b| *b == b'\n').map(<[u8]>::trim_ascii).filter(|line| !line.is_empty()) {
        if events.len() == bounds.events {
            return Err(BodyProblem::TooManyEvents { limit: bounds.events });
        }
        let event = std::str::from_utf8(line)
            .map_or_else(|_| WireEvent::defective(Refusal::Malformed), |text| read_event(text, bounds));
        any_json |= event.defect != Some(Refusal::Malformed);
        events.push(event);
    }
    if any_json || events.is_empty() { Ok(events) } else { Err(BodyProblem::NotJson("no line of it is".to_owned())) }
}

/// Reads an array of at most `limit` elements; one more is a data error, found before anything else is read.
struct Elements<T> {
    limit: usize,
    element: PhantomData<T>,
}

impl<T> Elements<T> {
    fn new(limit: usize) -> Self {
        Self { limit, element: PhantomData }
    }
}

impl<'de, T: Deserialize<'de>> DeserializeSeed<'de> for Elements<T> {
    type Value = Vec<T>;

    fn deserialize<D: Deserializer<'de>>(self, d: D) -> Result<Vec<T>, D::Error> {
        d.deserialize_seq(self)
    }
}

impl<'de, T: Deserialize<'de>> Visitor<'de> for Elements<T> {
    type Value = Vec<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of events")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Vec<T>, A::Error> {
        let mut events = Vec::with_capacity(self.limit.min(20));
        while let Some(event) = seq.next_element()? {
            if events.len() == self.limit {
                return Err(A::Error::custom("too many events"));
            }
            events.push(event);
        }
        Ok(events)
    }
}

/// Reads an object: an envelope when it has `events`, else one event.
struct ObjectBody {
    limit: usize,
}

impl<'de> Visitor<'de> for ObjectBody {
    type Value = Vec<WireEvent<'de>>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an event or an envelope")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut single = WireEvent::default();
        let mut seen = 0;
        let mut events = None;
        while let Some(name) = map.next_key::<Name>()? {
            match (name, &events) {
                (Name::Events, None) => events = Some(map.next_value_seed(Elements::new(self.limit))?),
                (Name::Events, Some(_)) => return Err(A::Error::custom("'events' stands twice")),
                (_, Some(_)) => map.next_value::<IgnoredAny>().map(|_| ())?,
                (name, None) => single.read_field(name, &mut map, &mut seen)?,
            }
        }
        Ok(events.unwrap_or_else(|| vec![single]))
    }
}

#[cfg(test)]
#[path = "native_tests.rs"]
mod tests;
