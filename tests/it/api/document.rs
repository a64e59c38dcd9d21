//! The OpenAPI document and its pages.

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
