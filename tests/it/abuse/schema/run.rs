//! Requests from the document against both doors.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use futures_util::StreamExt as _;
use hyper::Method;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};

use super::super::routes::documented;
use super::super::stage::{Door, Stage};
use super::check::{check, resolve};
use super::make::{HOSTILE, spoiled, valid};
use crate::api::world::{ADMIN, Answer};

/// Another seed tries other requests: `SCORELINE_SCHEMA_SEED=7 scripts/test schema`.
const SEED: u64 = 20_261_121;
/// Requests of each operation: of those that read, and of those that change something.
const READS: usize = 60;
const CHANGES: usize = 40;
/// Requests at once.
const AT_ONCE: usize = 8;

/// One request.
struct Case {
    door: Door,
    method: Method,
    pattern: String,
    path: String,
    key: Option<String>,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

fn encoded(text: &str) -> String {
    text.bytes().fold(String::new(), |mut out, byte| {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
        out
    })
}

/// What a part of a path may name.
fn named(stage: &Stage, (pattern, method): (&str, &str), name: &str, random: &mut StdRng) -> String {
    if random.random_bool(0.25) {
        // A part of a path is at least a character; the pattern would be another one without.
        return HOSTILE.iter().filter(|text| !text.is_empty()).collect::<Vec<_>>().choose(random).unwrap().to_string();
    }
    match name {
        "game" => "canary-game".to_owned(),
        "slug" if pattern.starts_with("/v1/public/") => "open-board".to_owned(),
        "slug" if pattern.starts_with("/v1/admin/games") => "canary-game".to_owned(),
        // A rebuild from Postgres would leave the others empty.
        "slug" if method == "delete" => "doomed-board".to_owned(),
        "slug" if pattern.starts_with("/v1/admin/") && method != "get" => "work-board".to_owned(),
        "slug" => ["canary-board", "open-board", "work-board"].choose(random).unwrap().to_string(),
        "player" => ["canary-player", "p-2", "nobody", "lookup", "a:b"].choose(random).unwrap().to_string(),
        "id" if pattern.contains("/keys/") => random.random_range(5..9).to_string(),
        "id" => stage.letter.clone(),
        "name" => "q0".to_owned(),
        other => panic!("name a {other}"),
    }
}

fn case(stage: &Stage, document: &Value, pattern: &str, method: &str, random: &mut StdRng) -> Case {
    let operation = &document["paths"][pattern][method];
    let admin = pattern.starts_with("/v1/admin/") && random.random_bool(0.6);
    let key = match random.random_range(0..10) {
        0 => None,
        1 => Some(HOSTILE[7].to_owned()),
        2 => Some(stage.mine.client.clone()),
        _ if admin => Some(ADMIN.to_owned()),
        _ => Some(stage.mine.server.clone()),
    };
    let (mut path, mut query, mut headers) = (pattern.to_owned(), Vec::new(), Vec::new());
    for parameter in operation["parameters"].as_array().into_iter().flatten() {
        let name = parameter["name"].as_str().unwrap();
        let place = parameter["in"].as_str().unwrap();
        if place == "path" {
            path = path.replace(&format!("{{{name}}}"), &encoded(&named(stage, (pattern, method), name, random)));
            continue;
        }
        let wanted = if name == "game" { 0.9 } else { 0.3 };
        if !random.random_bool(wanted) {
            continue;
        }
        let value = match valid(document, &parameter["schema"], random) {
            _ if random.random_bool(0.3) => HOSTILE.choose(random).unwrap().to_string(),
            _ if name == "game" => "canary-game".to_owned(),
            Value::String(text) => text,
            other => other.to_string(),
        };
        if place == "query" {
            query.push(format!("{name}={}", encoded(&value)));
        } else if value.bytes().all(|b| (0x20..0x7f).contains(&b)) {
            headers.push((name.to_owned(), value));
        }
    }
    let mut body = Vec::new();
    if let Some(content) = operation["requestBody"]["content"].as_object() {
        let kinds: Vec<&String> = content.keys().collect();
        let kind = *kinds.choose(random).unwrap();
        let made = valid(document, &content[kind]["schema"], random);
        let made = match random.random_range(0..10) {
            // What a definition means can be wrong in more ways than its shape.
            0..=2 if pattern == "/v1/admin/leaderboards" => json!({"slug": "made", "event_type": "t", "score": 1}),
            0..=2 if pattern.starts_with("/v1/admin/leaderboards/") => json!({"event_type": "t", "score": 1}),
            0..=5 => made,
            _ => spoiled(made, random),
        };
        body = made.to_string().into_bytes();
        if random.random_bool(0.1) && !body.is_empty() {
            let at = random.random_range(0..body.len());
            body[at] = random.random();
        }
        headers.push(("content-type".to_owned(), kind.clone()));
    }
    if !query.is_empty() {
        path = format!("{path}?{}", query.join("&"));
    }
    let door = if pattern == "/v1/events" { Door::Ingest } else { Door::Api };
    let method = method.to_uppercase().parse().unwrap();
    Case { door, method, pattern: pattern.to_owned(), path, key, headers, body }
}

/// What of an answer is not as declared.
fn judge(document: &Value, case: &Case, answer: &Answer) -> Result<(), String> {
    let status = answer.status.as_u16();
    let operation = &document["paths"][&case.pattern][case.method.as_str().to_lowercase()];
    let declared = operation["responses"].get(status.to_string()).ok_or("this status is not declared")?;
    let declared = resolve(document, declared);
    // With Redis and Postgres at hand only a board that is being made may make anybody wait.
    let waiting = status == 503 && answer.code() == "leaderboard_rebuilding";
    if status >= 500 && !waiting {
        return Err("bad input, or good input, is answered as our fault".to_owned());
    }
    let Some(content) = declared["content"].as_object() else {
        return if answer.body.is_empty() { Ok(()) } else { Err("no body is declared".to_owned()) };
    };
    let kind = answer.header("content-type").split(';').next().unwrap_or_default().trim().to_owned();
    let schema = &content.get(&kind).ok_or_else(|| format!("'{kind}' is not declared"))?["schema"];
    let body: Value = serde_json::from_slice(&answer.body).map_err(|e| e.to_string())?;
    check(document, schema, &body)?;
    if status >= 400 {
        if kind != "application/problem+json" || body["status"] != status {
            return Err("a refusal is no problem of its status".to_owned());
        }
        let code = body["code"].as_str().unwrap_or_default();
        let inert = !code.is_empty() && code.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
        if !inert || body["type"] != format!("urn:scoreline:problem:{code}") {
            return Err("a code is a word".to_owned());
        }
        let wait = [429, 503].contains(&status);
        if wait != answer.headers.contains_key("retry-after") {
            return Err("Retry-After comes with 429 and 503".to_owned());
        }
    }
    Ok(())
}

#[tokio::test]
async fn answers_to_whatever_the_document_allows_or_not_are_as_it_says() {
    let stage = Stage::new().await;
    let document = stage.ask(Door::Api, &Method::GET, "/openapi.json", None, &Value::Null).await.json();
    let seed = std::env::var("SCORELINE_SCHEMA_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or(SEED);
    let mut random = StdRng::seed_from_u64(seed);
    for slug in ["work-board", "doomed-board"] {
        let spec = json!({"slug": slug, "event_type": "t", "score": 1});
        stage.ask(Door::Api, &Method::POST, "/v1/admin/leaderboards", Some(&stage.mine.server), &spec).await;
    }
    let mut cases = Vec::new();
    for (pattern, method) in documented(&document) {
        let count = if method == "get" || pattern == "/v1/events" { READS } else { CHANGES };
        cases.extend((0..count).map(|_| case(&stage, &document, &pattern, method, &mut random)));
    }
    let total = cases.len();
    assert!(total > 1_500, "{total}");
    let answered = futures_util::stream::iter(cases).map(async |case| {
        let headers: Vec<(&str, &str)> = case.headers.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
        let sent =
            stage.send(case.door, &case.method, &case.path, case.key.as_deref(), &headers, case.body.clone().into());
        (sent.await, case)
    });
    let mut answered = std::pin::pin!(answered.buffer_unordered(AT_ONCE));
    let mut statuses: BTreeMap<(String, String), Vec<u16>> = BTreeMap::new();
    let mut wrong = Vec::new();
    while let Some((answer, case)) = answered.next().await {
        statuses.entry((case.pattern.clone(), case.method.to_string())).or_default().push(answer.status.as_u16());
        if let Err(why) = judge(&document, &case, &answer) {
            let (sent, got) = (String::from_utf8_lossy(&case.body), String::from_utf8_lossy(&answer.body));
            let (sent, got) = (sent.chars().take(300).collect::<String>(), got.chars().take(400).collect::<String>());
            wrong.push(format!(
                "{why}\n  {} {} {:?}\n  {sent}\n  {} {got}",
                case.method, case.path, case.headers, answer.status
            ));
        }
    }
    wrong.truncate(20);
    assert!(wrong.is_empty(), "seed {seed}:\n{}", wrong.join("\n"));
    // Requests that never get in say nothing.
    for (operation, statuses) in statuses {
        assert!(statuses.iter().any(|s| *s < 300), "{operation:?} was never answered 2xx: {statuses:?}");
        let refusable = operation.0.contains('{') || operation.0.contains("/v1/");
        assert!(
            !refusable || statuses.iter().any(|s| *s >= 400) || operation.0.starts_with("/v1/public/{game}"),
            "{operation:?}"
        );
    }
}
