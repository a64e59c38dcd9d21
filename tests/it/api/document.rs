//! The OpenAPI document and its pages.

use std::collections::BTreeSet;

use hyper::StatusCode;
use serde_json::Value;

use super::world::World;
use crate::ingest::door;
use crate::support::redis::redis;

#[tokio::test]
async fn the_document_is_served_and_its_pages_need_no_other_server() {
    let world = World::new().await;
    let document = world.get("/openapi.json", None).await;
    assert_eq!((document.status, document.header("content-type")), (StatusCode::OK, "application/json"));
    let json = document.json();
    assert!(json["openapi"].as_str().unwrap().starts_with("3."));
    for path in
        ["/v1/leaderboards/{slug}/entries", "/v1/public/{game}/leaderboards/{slug}/entries", "/v1/admin/leaderboards"]
    {
        assert!(json["paths"].get(path).is_some(), "{path}");
    }
    assert!(json["components"]["securitySchemes"]["key"].is_object());
    assert_references_resolve(&json, &json);
    let page = world.get("/docs/", None).await;
    assert_eq!(page.status, StatusCode::OK);
    let html = String::from_utf8(page.body.to_vec()).unwrap();
    assert!(!html.contains("http://") && !html.contains("https://"), "{html}");
    for asset in ["swagger-ui.css", "swagger-ui-bundle.js", "swagger-initializer.js"] {
        assert!(html.contains(asset), "{html}");
        let answer = world.get(&format!("/docs/{asset}"), None).await;
        assert_eq!(answer.status, StatusCode::OK, "{asset}");
        assert!(answer.header("content-security-policy").contains("script-src 'self'"));
    }
}

fn assert_references_resolve(document: &Value, value: &Value) {
    match value {
        Value::Object(object) => {
            if let Some(reference) = object.get("$ref").and_then(Value::as_str) {
                let pointer = reference.strip_prefix('#').unwrap();
                assert!(document.pointer(pointer).is_some(), "{reference} leads nowhere");
            }
            object.values().for_each(|v| assert_references_resolve(document, v));
        }
        Value::Array(array) => array.iter().for_each(|v| assert_references_resolve(document, v)),
        _ => {}
    }
}

const METHODS: [&str; 5] = ["get", "post", "put", "patch", "delete"];

/// What tools trip over: ids that are not unique, undeclared parameters of paths, answers without a description.
#[test]
fn the_document_is_valid() {
    let document = serde_json::to_value(scoreline::api::document()).unwrap();
    assert!(document["openapi"].as_str().unwrap().starts_with("3.1"));
    assert_references_resolve(&document, &document);
    let mut ids = BTreeSet::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for operation in METHODS.iter().filter_map(|method| item.get(method)) {
            assert!(ids.insert(operation["operationId"].as_str().unwrap()), "{path}: {}", operation["operationId"]);
            let parameters = operation["parameters"].as_array().cloned().unwrap_or_default();
            let of_path = |p: &&Value| p["in"] == "path" && p["required"] == true;
            let declared: BTreeSet<&str> =
                parameters.iter().filter(of_path).map(|p| p["name"].as_str().unwrap()).collect();
            let named: BTreeSet<&str> = path.split('{').skip(1).map(|rest| rest.split_once('}').unwrap().0).collect();
            assert_eq!(declared, named, "{path}");
            let answers = operation["responses"].as_object().unwrap();
            assert!(answers.keys().any(|status| status.starts_with('2')), "{path}");
            for (status, answer) in answers {
                assert!(!answer["description"].as_str().unwrap().is_empty(), "{path} {status}");
                assert!(status.parse::<u16>().is_ok(), "{path}: {status} says nothing");
            }
            let keyed = operation["security"].as_array().is_some_and(|s| !s.is_empty());
            assert_eq!(keyed, answers.contains_key("401"), "{path}");
        }
    }
    let events = &document["paths"]["/v1/events"]["post"];
    let statuses: Vec<&str> = events["responses"].as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(statuses, ["202", "400", "401", "408", "413", "415", "422", "429", "503"]);
}

/// What looks like a code in the doors' sources and is none.
const NO_CODES: [&str; 22] = [
    "accept_incomplete_history",
    "changes_at_once",
    "definition_bytes",
    "event_id",
    "event_type",
    "grace_seconds",
    "leaderboards_of_type",
    "max_score",
    "min_score",
    "occurred_at",
    "player_id",
    "public_reads",
    "receipts_of_all",
    "retry_after",
    "schema_version",
    "score_pointer",
    "server_only",
    "session_id",
    "snake_case",
    "subscore_pointer",
    "tie_policy",
    "time_zone",
];

/// The sources from which clients get codes, without their tests.
fn sources_of_the_doors() -> Vec<String> {
    let doors = ["src/http/", "src/api/", "src/ingest/", "src/domain/board_text.rs"];
    let of_doors = |path: &str| {
        let elsewhere = path.starts_with("src/api/openapi/") || path.ends_with("_tests.rs");
        doors.iter().any(|door| path.starts_with(door)) && !elsewhere
    };
    crate::stack::rules::sources()
        .into_iter()
        .filter(|(path, _)| of_doors(path.to_str().unwrap()))
        .map(|(_, text)| text.split("#[cfg(test)]").next().unwrap().to_owned())
        .collect()
}

/// Codes of problems: every text in those sources that has a code's shape.
fn codes_of_problems() -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for text in sources_of_the_doors() {
        for line in text.lines().filter(|line| !line.trim_start().starts_with("//")) {
            found.extend(line.split('"').skip(1).step_by(2).filter(|text| is_code(text)).map(str::to_owned));
        }
    }
    found.into_iter().filter(|code| !NO_CODES.contains(&code.as_str())).collect()
}

fn is_code(text: &str) -> bool {
    text.contains('_') && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
}

/// The codes that a table of the document's has.
fn documented(schema: &str) -> BTreeSet<String> {
    let document = serde_json::to_value(scoreline::api::document()).unwrap();
    let text = document["components"]["schemas"][schema]["description"].as_str().unwrap().to_owned();
    let rows = text.lines().filter_map(|line| line.strip_prefix("| `")?.split_once("` | "));
    rows.map(|(code, meaning)| {
        assert!(meaning.len() > 10, "{code} has no meaning");
        code.to_owned()
    })
    .collect()
}

#[test]
fn every_code_stands_in_the_document_with_its_meaning() {
    let of_events: BTreeSet<String> =
        scoreline::domain::verdict::Outcome::all().filter_map(|outcome| outcome.code()).map(str::to_owned).collect();
    assert_eq!(documented("EventCode"), of_events);
    let documented = documented("ProblemCode");
    assert_eq!(codes_of_problems(), documented, "made by the doors (or one of NO_CODES), and told by the document");
    // What single answers are said to be.
    let document = serde_json::to_string(&scoreline::api::document()).unwrap();
    for code in document.split('`').filter(|text| is_code(text) && text.ends_with("_not_found")) {
        assert!(documented.contains(code), "{code}");
    }
}

#[test]
fn the_document_begins_with_events_and_boards() {
    let text = scoreline::api::document().to_json().unwrap();
    let at = |path: &str| text.find(&format!("\"{path}\":")).unwrap_or_else(|| panic!("{path}"));
    let order = [
        "/v1/events",
        "/v1/leaderboards/{slug}/entries",
        "/v1/public/{game}/leaderboards/{slug}/entries",
        "/v1/admin/games",
    ];
    assert!(order.windows(2).all(|pair| at(pair[0]) < at(pair[1])));
    let document: Value = serde_json::from_str(&text).unwrap();
    let first_admin = text.find("\"/v1/admin/").unwrap();
    for path in document["paths"].as_object().unwrap().keys().filter(|path| !path.starts_with("/v1/admin/")) {
        assert!(at(path) < first_admin, "{path}");
    }
    let tags: Vec<&str> =
        document["tags"].as_array().unwrap().iter().map(|tag| tag["name"].as_str().unwrap()).collect();
    assert_eq!(tags, ["ingest", "leaderboards", "public", "admin"]);
}

/// Each example of a body is taken, and the receipts shown are the program's.
#[tokio::test]
async fn examples_are_what_the_program_says() {
    let document = serde_json::to_value(scoreline::api::document()).unwrap();
    let post = &document["paths"]["/v1/events"]["post"];
    let redis = redis();
    let door = door::open(door::settings(&redis)).await;
    let now = scoreline::domain::clock::Micros::from_seconds(door::NOW).to_string();
    for example in post["requestBody"]["content"]["application/json"]["examples"].as_object().unwrap().values() {
        let mut body = example["value"].clone();
        for event in body.as_array_mut().into_iter().flatten() {
            event["occurred_at"] = Value::from(now.clone());
        }
        let answer = door.post(door::SERVER, &body).await;
        assert_eq!(answer.status, 202, "{example}: {answer:?}");
    }
    let examples = &post["responses"]["202"]["content"]["application/json"]["examples"];
    let id = "018f4a3e-7d1c-7c3a-9a52-1f2b3c4d5e6f";
    let good = serde_json::json!({"event_id": id, "occurred_at": now, "type": "game_won", "player_id": "p-17"});
    for (name, body) in
        [("accepted", serde_json::json!([good])), ("partly", serde_json::json!([good, {"type": "game_won"}]))]
    {
        let (mut shown, mut said) = (examples[name]["value"].clone(), door.post(door::SERVER, &body).await.body);
        for receipt in [&mut shown, &mut said] {
            receipt["batch_id"] = Value::Null;
        }
        assert_eq!(shown, said, "{name}");
    }
}
