//! Whether a value is what a JSON schema says. It knows what the document uses; anything else is an error, so that
//! nothing is passed over in silence.

use serde_json::Value;

/// What says nothing about values.
const ANNOTATIONS: [&str; 5] = ["description", "title", "default", "example", "examples"];

/// Texts of a pattern, tested without a library for regular expressions: the patterns are the document's own.
pub fn matches(pattern: &str, text: &str) -> bool {
    let all = |text: &str, other: &str| {
        !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || other.contains(c))
    };
    let uuid = |text: &str| text.len() == 36 && uuid::Uuid::try_parse(text).is_ok();
    let digits = |text: &str, most: usize| (1..=most).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
    match pattern {
        "^[A-Za-z0-9._:@+=/~|-]+$" => all(text, "._:@+=/~|-"),
        "^[a-z0-9][a-z0-9_-]*$" => {
            all(text, "_-") && !text.starts_with(['_', '-']) && !text.contains(|c: char| c.is_ascii_uppercase())
        }
        r"^[^\x00-\x1f\x7f-\x9f]+$" => !text.is_empty() && !text.contains(char::is_control),
        "^[A-Za-z0-9_-]{83,300}$" => all(text, "_-") && (83..=300).contains(&text.len()),
        "^(current|previous|[0-9]{1,18})$" => ["current", "previous"].contains(&text) || digits(text, 18),
        "^(plays|metadata|plays,metadata|metadata,plays)?$" => {
            ["", "plays", "metadata", "plays,metadata", "metadata,plays"].contains(&text)
        }
        "^[0-9]{1,17}_[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$" => {
            text.split_once('_').is_some_and(|(moment, id)| digits(moment, 17) && uuid(id))
        }
        "^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$" => uuid(text),
        "^(/([^~]|~[01])*)?$" => {
            let escapes = text.split('~').skip(1).all(|rest| rest.starts_with(['0', '1']));
            text.is_empty() || text.starts_with('/') && escapes
        }
        other => panic!("teach the test what {other} is"),
    }
}

/// What a reference leads to.
pub fn resolve<'a>(document: &'a Value, schema: &'a Value) -> &'a Value {
    match schema["$ref"].as_str() {
        Some(reference) => document.pointer(&reference[1..]).unwrap_or_else(|| panic!("{reference} leads nowhere")),
        None => schema,
    }
}

fn is_of(kind: &str, value: &Value) -> bool {
    match kind {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        "boolean" => value.is_boolean(),
        "null" => value.is_null(),
        other => panic!("no such type: {other}"),
    }
}

/// Checks `value`; says where it differs.
pub fn check(document: &Value, schema: &Value, value: &Value) -> Result<(), String> {
    if schema["$ref"].is_string() {
        return check(document, resolve(document, schema), value);
    }
    let Some(rules) = schema.as_object() else { return Err(format!("no schema: {schema}")) };
    for (rule, of) in rules {
        let holds = match rule.as_str() {
            "type" => match of {
                Value::String(kind) => is_of(kind, value),
                kinds => kinds.as_array().unwrap().iter().any(|kind| is_of(kind.as_str().unwrap(), value)),
            },
            "enum" => of.as_array().unwrap().contains(value),
            "required" => value.as_object().is_none_or(|object| {
                of.as_array().unwrap().iter().all(|name| object.contains_key(name.as_str().unwrap()))
            }),
            "properties" => {
                for (name, inner) in of.as_object().unwrap() {
                    if let Some(found) = value.get(name) {
                        check(document, inner, found).map_err(|why| format!("/{name}: {why}"))?;
                    }
                }
                true
            }
            "additionalProperties" => {
                let known = &schema["properties"];
                for (name, found) in value.as_object().into_iter().flatten().filter(|(n, _)| known.get(n).is_none()) {
                    if *of == Value::Bool(false) {
                        return Err(format!("'{name}' is not declared"));
                    }
                    check(document, of, found).map_err(|why| format!("/{name}: {why}"))?;
                }
                true
            }
            "items" => {
                for (at, found) in value.as_array().into_iter().flatten().enumerate() {
                    check(document, of, found).map_err(|why| format!("/{at}: {why}"))?;
                }
                true
            }
            "allOf" => {
                for part in of.as_array().unwrap() {
                    check(document, part, value)?;
                }
                true
            }
            "anyOf" | "oneOf" => {
                let tried: Vec<_> = of.as_array().unwrap().iter().map(|part| check(document, part, value)).collect();
                let fits = tried.iter().filter(|t| t.is_ok()).count();
                if fits == 0 || rule == "oneOf" && fits > 1 {
                    return Err(format!("{fits} of {rule} fit: {tried:?}"));
                }
                true
            }
            "minimum" => value.as_f64().is_none_or(|v| v >= of.as_f64().unwrap()),
            "maximum" => value.as_f64().is_none_or(|v| v <= of.as_f64().unwrap()),
            "minLength" => value.as_str().is_none_or(|v| v.chars().count() as u64 >= of.as_u64().unwrap()),
            "maxLength" => value.as_str().is_none_or(|v| v.chars().count() as u64 <= of.as_u64().unwrap()),
            "minItems" => value.as_array().is_none_or(|v| v.len() as u64 >= of.as_u64().unwrap()),
            "maxItems" => value.as_array().is_none_or(|v| v.len() as u64 <= of.as_u64().unwrap()),
            "pattern" => value.as_str().is_none_or(|v| matches(of.as_str().unwrap(), v)),
            "format" => has_format(of.as_str().unwrap(), value),
            // Every name is a text.
            "propertyNames" => of["type"] == "string",
            rule if ANNOTATIONS.contains(&rule) => true,
            other => return Err(format!("teach the test what '{other}' is")),
        };
        if !holds {
            return Err(format!("{value} breaks {rule}: {of}"));
        }
    }
    Ok(())
}

fn has_format(format: &str, value: &Value) -> bool {
    match (format, value) {
        ("date-time", Value::String(text)) => text.parse::<jiff::Timestamp>().is_ok(),
        ("uuid", Value::String(text)) => text.len() == 36 && uuid::Uuid::try_parse(text).is_ok(),
        ("int32", Value::Number(number)) => number.as_i64().is_some_and(|n| i32::try_from(n).is_ok()),
        ("int64", Value::Number(number)) => number.is_i64() || number.is_u64(),
        ("double", Value::Number(_)) => true,
        (_, Value::Null | Value::Object(_) | Value::Array(_) | Value::Bool(_)) => true,
        (_, Value::String(_)) if format.starts_with("int") => true,
        (_, Value::Number(_)) if ["date-time", "uuid"].contains(&format) => true,
        (other, _) => panic!("teach the test what {other} is"),
    }
}

#[test]
fn differences_are_found() {
    use serde_json::json;
    let document = json!({"components": {"schemas": {"Name": {"type": "string", "minLength": 1}}}});
    let schema = json!({"type": "object", "required": ["a"], "additionalProperties": false, "properties": {
        "a": {"$ref": "#/components/schemas/Name"}, "b": {"type": ["integer", "null"], "minimum": 3},
        "c": {"oneOf": [{"type": "array", "items": {"enum": [1]}}, {"type": "null"}]}}});
    for good in [json!({"a": "x"}), json!({"a": "x", "b": null}), json!({"a": "x", "b": 3, "c": [1, 1]})] {
        assert_eq!(check(&document, &schema, &good), Ok(()));
    }
    for bad in [
        json!([]),
        json!({}),
        json!({"a": ""}),
        json!({"a": 1}),
        json!({"a": "x", "d": 1}),
        json!({"a": "x", "b": 2}),
        json!({"a": "x", "b": "3"}),
        json!({"a": "x", "c": [2]}),
    ] {
        assert!(check(&document, &schema, &bad).is_err(), "{bad}");
    }
    assert!(check(&document, &json!({"multipleOf": 2}), &json!(2)).is_err());
}
