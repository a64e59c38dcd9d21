//! The OpenAPI document and its pages.

use std::collections::BTreeSet;

use hyper::StatusCode;
use serde_json::Value;

use super::world::World;

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
