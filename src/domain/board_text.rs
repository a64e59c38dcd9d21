//! A leaderboard as people write it: JSON text, checked with messages that say what to change. One reader for the
//! admin route and for `scoreline leaderboard apply`.

use serde_json::Value;

use super::board::{BoardGeneration, CompiledBoard, GenerationState, LeaderboardSpec, SpecError};
use super::ids::{BoardGenerationId, GameId};
use super::json_words::in_words;
use super::name::check_name;
use super::payload_check::PayloadChecker;

/// Everything that may stand in a specification, and what it is also called.
const FIELDS: [(&str, &str); 17] = [
    ("slug", ""),
    ("name", ""),
    ("public", ""),
    ("tie_policy", ""),
    ("server_only", ""),
    ("event_type", ""),
    ("score", "score_pointer"),
    ("subscore", "subscore_pointer"),
    ("metadata", ""),
    ("match", ""),
    ("operator", ""),
    ("order", ""),
    ("min_score", ""),
    ("max_score", ""),
    ("reset", ""),
    ("time_zone", ""),
    ("grace_seconds", ""),
];

/// The longest pointer, in bytes.
const MAX_POINTER: usize = 512;
/// The longest grace: a month.
const MAX_GRACE_SECONDS: u32 = 31 * 86_400;

/// What is wrong with a specification.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct SpecProblem {
    /// Stable.
    pub code: &'static str,
    /// Where, as a JSON pointer.
    pub field: String,
    /// What to change.
    pub message: String,
}

fn problem(code: &'static str, field: &str, message: impl Into<String>) -> SpecProblem {
    SpecProblem { code, field: field.to_owned(), message: message.into() }
}

/// Reads a specification. `slug`: from the route, where the text may leave it out but not contradict it.
///
/// # Errors
/// [`SpecProblem`], the first found.
pub fn parse_spec(json: &[u8], slug: Option<&str>) -> Result<LeaderboardSpec, SpecProblem> {
    let value: Value = serde_json::from_slice(json)
        .map_err(|e| problem("body_invalid", "", format!("this is not JSON: {}", in_words(&e))))?;
    let Value::Object(mut fields) = value else {
        return Err(problem("body_invalid", "", "a leaderboard is a JSON object"));
    };
    // What Postgres cannot hold, and names that stand twice, which the parser above lets pass.
    let text = std::str::from_utf8(json).unwrap_or_default();
    if let Err(error) = PayloadChecker::default().check(text) {
        return Err(problem("body_invalid", "", format!("the text {error}")));
    }
    if let Some(unknown) = fields.keys().find(|key| !known(key)) {
        let hint = closest(unknown).map_or(String::new(), |name| format!("; did you mean '{name}'?"));
        return Err(problem("field_unknown", &format!("/{unknown}"), format!("unknown field '{unknown}'{hint}")));
    }
    if let Some(slug) = slug {
        let given = fields.entry("slug").or_insert_with(|| Value::from(slug));
        if given != slug {
            return Err(problem("slug_mismatch", "/slug", format!("the address says '{slug}'")));
        }
    }
    for needed in ["slug", "event_type", "score"] {
        let alias = FIELDS.iter().find(|(name, _)| *name == needed).map_or("", |(_, alias)| alias);
        if !fields.contains_key(needed) && !fields.contains_key(alias) {
            return Err(problem("field_missing", &format!("/{needed}"), format!("'{needed}' is required")));
        }
    }
    let field_at_fault = |fields: &serde_json::Map<String, Value>| {
        // serde does not say which field of a flattened struct it stumbled over: the one without which (or with the
        // default of which) the rest is fine.
        let probe = |name: &String| {
            let mut rest = fields.clone();
            match name.as_str() {
                "slug" | "event_type" => rest.insert(name.clone(), Value::from("x")),
                "score" | "score_pointer" => rest.insert(name.clone(), Value::from(1)),
                _ => rest.remove(name),
            };
            serde_json::from_value::<LeaderboardSpec>(Value::Object(rest)).is_ok()
        };
        fields.keys().find(|name| probe(name)).map(|name| format!("/{name}")).unwrap_or_default()
    };
    let spec = serde_json::from_value::<LeaderboardSpec>(Value::Object(fields.clone())).map_err(|_| {
        let field = field_at_fault(&fields);
        let message = expected(field.trim_start_matches('/'));
        problem("field_invalid", &field, message)
    })?;
    check(spec)
}

/// What a field may be. The parser's own words are about this program's types.
fn expected(field: &str) -> &'static str {
    match field {
        "slug" => "a name in URLs: 1 to 64 of a-z, 0-9, '-' and '_', beginning with a letter or a digit",
        "name" => "a text",
        "public" | "server_only" => "true or false",
        "tie_policy" => "'ordinal' or 'competition'",
        "event_type" => "an event's type: 1 to 128 ASCII letters, digits and - _ . : @ + = / ~ |",
        "score" | "score_pointer" | "subscore" | "subscore_pointer" => {
            "a JSON pointer into the payload such as '/score', or a whole number"
        }
        "metadata" => "a JSON pointer into the payload such as '/replay'",
        "match" => "a list of conditions, each {\"pointer\": …} with \"equals\" or \"any_of\"",
        "operator" => "'best', 'set', 'incr' or 'decr'",
        "order" => "'descending' or 'ascending'",
        "min_score" | "max_score" => "a whole number of 64 bits",
        "reset" => "'never', 'daily', 'weekly', 'monthly' or {\"cron\": \"0 4 * * FRI\"}",
        "time_zone" => "an IANA name such as 'Europe/Berlin'",
        "grace_seconds" => "a whole number of seconds, at most 2678400 (a month)",
        _ => "a value of this definition is not what it may be",
    }
}

fn check(spec: LeaderboardSpec) -> Result<LeaderboardSpec, SpecProblem> {
    let definition = &spec.definition;
    if let Some(Err(error)) = spec.name.as_deref().map(check_name) {
        return Err(problem("field_invalid", "/name", error.to_string()));
    }
    if definition.grace_seconds > MAX_GRACE_SECONDS {
        return Err(problem("field_invalid", "/grace_seconds", format!("at most {MAX_GRACE_SECONDS} (a month)")));
    }
    for (field, pointer) in pointers(&spec) {
        if super::json::Pointer::parse(pointer).is_err() || pointer.len() > MAX_POINTER {
            let message = format!(
                "'{pointer}' is no JSON pointer: it begins with '/', has '~' only in '~0' and '~1', and at most {MAX_POINTER} bytes"
            );
            return Err(problem("pointer_invalid", &field, message));
        }
    }
    let generation = BoardGeneration {
        id: BoardGenerationId(0),
        leaderboard_id: 0,
        game_id: GameId(0),
        since_generation: 0,
        state: GenerationState::Building,
        spec,
    };
    match CompiledBoard::compile(generation.clone()) {
        Ok(_) => Ok(generation.spec),
        Err(error) => {
            let (code, field) = match &error {
                SpecError::BadPointer(_) => ("pointer_invalid", "/score"),
                SpecError::Schedule(super::period::ScheduleError::UnknownTimeZone(_)) => {
                    ("time_zone_unknown", "/time_zone")
                }
                SpecError::Schedule(_) => ("reset_invalid", "/reset"),
                SpecError::EmptyBounds => ("bounds_invalid", "/min_score"),
                SpecError::BadMatch | SpecError::TooManyMatches => ("match_invalid", "/match"),
            };
            Err(problem(code, field, error.to_string()))
        }
    }
}

fn pointers(spec: &LeaderboardSpec) -> Vec<(String, &str)> {
    use super::board::ScoreSource::Pointer;
    let definition = &spec.definition;
    let mut found: Vec<(String, &str)> = Vec::new();
    if let Pointer(pointer) = &definition.score {
        found.push(("/score".to_owned(), pointer));
    }
    if let Some(Pointer(pointer)) = &definition.subscore {
        found.push(("/subscore".to_owned(), pointer));
    }
    if let Some(pointer) = &definition.metadata {
        found.push(("/metadata".to_owned(), pointer));
    }
    for (at, condition) in definition.matches.iter().enumerate() {
        found.push((format!("/match/{at}/pointer"), &condition.pointer));
    }
    found
}

fn known(name: &str) -> bool {
    !name.is_empty() && FIELDS.iter().any(|(field, alias)| *field == name || *alias == name)
}

/// A known field that differs from `name` by little.
fn closest(name: &str) -> Option<&'static str> {
    let plain = |text: &str| text.to_ascii_lowercase().replace(['_', '-'], "");
    let wanted = plain(name);
    FIELDS
        .iter()
        .map(|(field, _)| (distance(&plain(field), &wanted), *field))
        .min()
        .filter(|(distance, field)| *distance <= 2 && *distance < field.len())
        .map(|(_, field)| field)
}

/// Levenshtein's distance of two short texts.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().take(64).collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.iter().enumerate() {
            let next = (diagonal + usize::from(x != *y)).min(row[j] + 1).min(row[j + 1] + 1);
            diagonal = std::mem::replace(&mut row[j + 1], next);
        }
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(json: &str) -> (&'static str, String) {
        let problem = parse_spec(json.as_bytes(), None).unwrap_err();
        (problem.code, problem.field)
    }

    #[test]
    fn a_specification_reads_with_its_defaults_and_aliases() {
        let json = br#"{"slug":"g","event_type":"game_ended","score_pointer":"/score","order":"asc","reset":{"cron":"0 4 * * *"}}"#;
        let spec = parse_spec(json, None).unwrap();
        assert_eq!(spec.definition.grace_seconds, 600);
        assert_eq!(parse_spec(br#"{"event_type":"e","score":1}"#, Some("g")).unwrap().slug.as_str(), "g");
    }

    #[test]
    fn what_is_wrong_is_named() {
        let with = |extra: &str| refused(&format!(r#"{{"slug":"g","event_type":"e","score":"/s"{extra}}}"#));
        assert_eq!(refused("["), ("body_invalid", String::new()));
        assert_eq!(refused("[]"), ("body_invalid", String::new()));
        assert_eq!(refused(r#"{"slug":"g","score":"/s"}"#), ("field_missing", "/event_type".to_owned()));
        assert_eq!(refused(r#"{"slug":"g","event_type":"e","score":"s"}"#), ("pointer_invalid", "/score".to_owned()));
        assert_eq!(refused(r#"{"slug":"G G","event_type":"e","score":1}"#), ("field_invalid", "/slug".to_owned()));
        assert_eq!(with(r#","operator":"sum""#), ("field_invalid", "/operator".to_owned()));
        assert_eq!(with(r#","reset":"hourly""#), ("field_invalid", "/reset".to_owned()));
        assert_eq!(with(r#","reset":{"cron":"x"}"#), ("reset_invalid", "/reset".to_owned()));
        assert_eq!(with(r#","time_zone":"Mars/Olympus""#), ("time_zone_unknown", "/time_zone".to_owned()));
        assert_eq!(with(r#","min_score":2,"max_score":1"#), ("bounds_invalid", "/min_score".to_owned()));
        assert_eq!(with(r#","match":[{"pointer":"/m"}]"#), ("match_invalid", "/match".to_owned()));
        assert_eq!(
            with(r#","match":[{"pointer":"m","equals":1}]"#),
            ("pointer_invalid", "/match/0/pointer".to_owned())
        );
        assert_eq!(with(r#","grace_seconds":99999999"#), ("field_invalid", "/grace_seconds".to_owned()));
        // In the studio's words and not in the parser's.
        for (field, value) in
            [("subscore", "true"), ("min_score", "\"1\""), ("reset", "7"), ("order", "\"up\""), ("match", "1")]
        {
            let text = format!(r#"{{"slug":"g","event_type":"e","score":1,"{field}":{value}}}"#);
            let problem = parse_spec(text.as_bytes(), None).unwrap_err();
            assert_eq!((problem.code, problem.field), ("field_invalid", format!("/{field}")));
            for word in ["enum", "variant", "i64", "u32", "struct", "expected"] {
                assert!(!problem.message.contains(word), "{}", problem.message);
            }
        }
        let problem = parse_spec(br#"{"slug":"g","eventType":"e","score":1}"#, None).unwrap_err();
        assert_eq!((problem.code, problem.field.as_str()), ("field_unknown", "/eventType"));
        assert!(problem.message.contains("did you mean 'event_type'"), "{problem}");
        assert_eq!(
            parse_spec(br#"{"slug":"a","event_type":"e","score":1}"#, Some("b")).unwrap_err().code,
            "slug_mismatch"
        );
    }
}
