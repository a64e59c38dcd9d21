//! Every route there is: what the routers say of themselves, and what the document says.

use std::collections::{BTreeMap, BTreeSet};

use hyper::{Method, StatusCode};
use serde_json::Value;

use super::stage::{Door, Stage};

pub const METHODS: [&str; 5] = ["get", "post", "put", "patch", "delete"];

/// The documentation's own routes: pages, not part of what they describe.
const PAGES: [&str; 5] = ["/openapi.json", "/docs", "/docs/", "/docs/openapi.json", "/docs/{*rest}"];

/// A route and a method.
pub type Route = (String, &'static str);

/// What axum's description of a router says: every pattern with its methods, both by the route's id, as in
/// `routes: {RouteId(1): MethodRouter(MethodRouter { get: …, … }), …}, node: Node { paths: {RouteId(1): "/…", …} }`.
fn described(router: &str) -> BTreeSet<Route> {
    let (routes, paths) = router.split_once("node: Node { paths: {").expect("axum describes its routes");
    let by_id = |text: &str, before: &'static str| -> BTreeMap<usize, String> {
        let parts: Vec<String> = text.split("RouteId(").skip(1).map(str::to_owned).collect();
        let parts = parts.iter().filter_map(|part| part.split_once(before));
        parts.map(|(id, rest)| (id.parse().unwrap(), rest.to_owned())).collect()
    };
    let handlers = by_id(routes, "): MethodRouter(");
    // What follows the first router's patterns describes the fallbacks.
    let (paths, _) = paths.split_once("\"} }").expect("patterns end");
    let paths = by_id(paths, "): \"");
    assert!(!paths.is_empty() && paths.keys().eq(handlers.keys()), "{paths:?}");
    let mut found = BTreeSet::new();
    for (id, path) in paths {
        let path = path.split('"').next().unwrap().to_owned();
        let taken = |method: &&str| !handlers[&id].contains(&format!("{method}: None"));
        found.extend(METHODS.into_iter().filter(taken).map(|method| (path.clone(), method)));
    }
    found
}

/// What the document names.
pub fn documented(document: &Value) -> BTreeSet<Route> {
    let paths = document["paths"].as_object().unwrap();
    paths
        .iter()
        .flat_map(|(path, item)| METHODS.into_iter().filter(|m| item.get(m).is_some()).map(|m| (path.clone(), m)))
        .collect()
}

#[tokio::test]
async fn no_route_is_undocumented_and_no_documented_route_is_missing() {
    let stage = Stage::new().await;
    let document = stage.ask(Door::Api, &Method::GET, "/openapi.json", None, &Value::Null).await.json();
    let mut served = described(&stage.world.router);
    served.extend(described(&stage.ingest_router));
    let pages: Vec<Route> = served.iter().filter(|(path, _)| PAGES.contains(&path.as_str())).cloned().collect();
    assert!(pages.len() >= 3, "{pages:?}");
    served.retain(|route| !pages.contains(route));
    // A player called "lookup" is a player: the same handler as the pattern with {player}.
    served.retain(|(path, method)| !(*method == "get" && path.ends_with("/entries/lookup")));
    assert_eq!(served, documented(&document));
}

#[tokio::test]
async fn each_listener_serves_its_own_routes_only() {
    let stage = Stage::new().await;
    let status = async |door, method: &Method, path: &str| {
        let key = Some(stage.mine.server.as_str());
        stage.ask(door, method, path, key, &Value::Null).await.status
    };
    for path in ["/healthz", "/readyz", "/health/pool", "/metrics"] {
        assert_ne!(status(Door::Operations, &Method::GET, path).await, StatusCode::NOT_FOUND, "{path}");
        assert_eq!(status(Door::Operations, &Method::POST, path).await, StatusCode::METHOD_NOT_ALLOWED, "{path}");
        for door in [Door::Api, Door::Ingest] {
            assert_eq!(status(door, &Method::GET, path).await, StatusCode::NOT_FOUND, "{path} on {door:?}");
        }
    }
    for (path, method) in
        documented(&stage.ask(Door::Api, &Method::GET, "/openapi.json", None, &Value::Null).await.json())
    {
        let method: Method = method.to_uppercase().parse().unwrap();
        let others =
            if path == "/v1/events" { [Door::Api, Door::Operations] } else { [Door::Ingest, Door::Operations] };
        for door in others {
            assert_eq!(status(door, &method, &path).await, StatusCode::NOT_FOUND, "{path} on {door:?}");
        }
    }
}
