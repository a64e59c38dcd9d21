//! Makes values from a schema: such as it allows, and such as it does not.

use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng, RngCore};
use serde_json::{Map, Value, json};

use super::check::resolve;

/// Texts that have hurt somebody's server before.
pub const HOSTILE: [&str; 24] = [
    "",
    " ",
    "\0",
    "a\0b",
    "\r\nX-Evil: 1",
    "{}",
    "*",
    "a:b:c",
    "'; DROP TABLE games; --",
    "<script>alert(1)</script>",
    "../../etc/passwd",
    "%00",
    "%ff%fe",
    "\u{202e}abc",
    "\u{feff}",
    "é\u{301}\u{10ffff}",
    "null",
    "undefined",
    "[object Object]",
    "00000000-0000-0000-0000-000000000000",
    "-1",
    "1e400",
    "9223372036854775808",
    "0001-01-01T00:00:00Z",
];

fn text(random: &mut StdRng, schema: &Value) -> String {
    if let Some(pattern) = schema["pattern"].as_str() {
        let id = uuid::Uuid::from_u128(random.random());
        return match pattern {
            "^[A-Za-z0-9._:@+=/~|-]+$" => ["p-2", "canary-player", "nobody", "a:b", "x/y", "lookup"]
                .choose(random)
                .map(|s| (*s).to_owned())
                .unwrap(),
            "^[a-z0-9][a-z0-9_-]*$" => format!("s{}", random.random_range(0..9_999)),
            r"^[^\x00-\x1f\x7f-\x9f]+$" => {
                ["Global", "<b>&'\"", "週間", "a\u{202e}b"].choose(random).unwrap().to_string()
            }
            "^[A-Za-z0-9_-]{83,300}$" => "A".repeat(random.random_range(83..=300)),
            "^(current|previous|[0-9]{1,18})$" => {
                ["current", "previous", "1", "999999999999999999"].choose(random).map(|s| (*s).to_owned()).unwrap()
            }
            "^(plays|metadata|plays,metadata|metadata,plays)?$" => "plays,metadata".to_owned(),
            "^[0-9]{1,17}_[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$" => {
                format!("{}_{id}", random.random_range(0..100_000_000_000_000_000i64))
            }
            "^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$" => id.to_string(),
            "^(/([^~]|~[01])*)?$" => ["", "/score", "/a~0b/c~1d", "/0", "/é"].choose(random).unwrap().to_string(),
            other => panic!("teach the test to write {other}"),
        };
    }
    if let Some(examples) = schema["examples"].as_array()
        && random.random_bool(0.8)
    {
        return examples.choose(random).unwrap().as_str().unwrap().to_owned();
    }
    match schema["format"].as_str() {
        Some("date-time") => {
            let seconds = random.random_range(-60_000_000_000i64..250_000_000_000);
            jiff::Timestamp::from_second(seconds).unwrap().to_string()
        }
        Some("uuid") => uuid::Uuid::from_u128(random.random()).to_string(),
        _ => {
            let longest = schema["maxLength"].as_u64().unwrap_or(40).min(300) as usize;
            let shortest = schema["minLength"].as_u64().unwrap_or(0) as usize;
            let length = random.random_range(shortest..=longest.max(shortest));
            (0..length).map(|_| random.random_range('a'..='z')).collect()
        }
    }
}

/// A value that the schema allows.
pub fn valid(document: &Value, schema: &Value, random: &mut StdRng) -> Value {
    let schema = resolve(document, schema);
    for choices in ["oneOf", "anyOf"] {
        if let Some(of) = schema[choices].as_array() {
            return valid(document, of.choose(random).unwrap(), random);
        }
    }
    if let Some(all) = schema["allOf"].as_array() {
        let parts = all.iter().map(|part| valid(document, part, random));
        return parts.fold(json!({}), |mut whole, part| {
            whole.as_object_mut().unwrap().extend(part.as_object().unwrap().clone());
            whole
        });
    }
    if let Some(of) = schema["enum"].as_array() {
        return of.choose(random).unwrap().clone();
    }
    let kind = match &schema["type"] {
        Value::String(kind) => kind.as_str(),
        Value::Array(kinds) => kinds.choose(random).unwrap().as_str().unwrap(),
        _ => "object",
    };
    match kind {
        "null" => Value::Null,
        "boolean" => json!(random.random::<bool>()),
        "number" => json!(random.random_range(-1e9..1e9)),
        "integer" => {
            let (least, most) = match schema["format"].as_str() {
                Some("int32") => (i64::from(i32::MIN), i64::from(i32::MAX)),
                _ => (i64::MIN, i64::MAX),
            };
            let least = schema["minimum"].as_i64().unwrap_or(least);
            let most = schema["maximum"].as_i64().unwrap_or(most);
            json!([least, most, random.random_range(least..=most)].choose(random).unwrap())
        }
        "string" => Value::String(text(random, schema)),
        "array" => {
            let least = schema["minItems"].as_u64().unwrap_or(0) as usize;
            let count = least + [0, 1, 3][random.random_range(0..3)];
            Value::Array((0..count).map(|_| valid(document, &schema["items"], random)).collect())
        }
        "object" => {
            let required = schema["required"].as_array().cloned().unwrap_or_default();
            let mut object = Map::new();
            for (name, inner) in schema["properties"].as_object().into_iter().flatten() {
                if required.contains(&Value::from(name.as_str())) || random.random_bool(0.4) {
                    object.insert(name.clone(), valid(document, inner, random));
                }
            }
            Value::Object(object)
        }
        other => panic!("no such type: {other}"),
    }
}

/// The same value with something wrong in it, or something else altogether.
pub fn spoiled(mut value: Value, random: &mut StdRng) -> Value {
    let hostile = wrong(random);
    match &mut value {
        Value::Object(object) if !object.is_empty() && random.random_bool(0.8) => {
            let names: Vec<String> = object.keys().cloned().collect();
            let name = names.choose(random).unwrap();
            match random.random_range(0..4) {
                0 => drop(object.remove(name)),
                1 => drop(object.insert(HOSTILE.choose(random).unwrap().to_string(), hostile)),
                2 => {
                    let inner = object.remove(name).unwrap();
                    object.insert(name.clone(), spoiled(inner, random));
                }
                _ => drop(object.insert(name.clone(), hostile)),
            }
            value
        }
        Value::Array(items) if !items.is_empty() && random.random_bool(0.8) => {
            let at = random.random_range(0..items.len());
            items[at] = spoiled(items[at].take(), random);
            value
        }
        _ => hostile,
    }
}

fn wrong(random: &mut StdRng) -> Value {
    match random.random_range(0..9) {
        0 => Value::Null,
        1 => json!(true),
        2 => json!(random.next_u64()),
        3 => json!(-1.5e300),
        4 => json!([]),
        5 => json!({"a": {"b": ["c"]}}),
        6 => json!("x".repeat(300_000)),
        7 => (0..200).fold(json!(1), |inner, _| json!([inner])),
        _ => json!(HOSTILE.choose(random).unwrap()),
    }
}
