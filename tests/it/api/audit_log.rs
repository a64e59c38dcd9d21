//! Every change is written to the audit log (contract, "Operations").

use std::collections::BTreeSet;

use hyper::Method;
use serde_json::json;

use super::world::{ADMIN, World, board};

#[tokio::test]
async fn every_kind_of_change_leaves_its_trace() {
    let world = World::new().await;
    let game = world.game("demo").await;
    world.board(&game, board("global")).await;
    let mut edited = board("global");
    edited["public"] = true.into();
    let change = async |method: Method, path: &str, key: &str, body: serde_json::Value| {
        let answer = world.send(method, path, Some(key), &body).await;
        assert!(answer.status.is_success(), "{path}: {:?}", answer.body);
        answer
    };
    let key =
        change(Method::POST, "/v1/admin/keys", &game.server, json!({"kind": "client"})).await.json()["id"].clone();
    change(Method::DELETE, &format!("/v1/admin/keys/{key}"), &game.server, json!({})).await;
    change(Method::PUT, "/v1/admin/leaderboards/global", &game.server, edited).await;
    for action in ["rebuild", "recompute"] {
        change(Method::POST, &format!("/v1/admin/leaderboards/global/{action}"), &game.server, json!({})).await;
    }
    for action in ["discard", "replay"] {
        change(Method::POST, &format!("/v1/admin/dead-letters/{action}"), &game.server, json!({"ids": []})).await;
    }
    for action in ["pause", "resume"] {
        change(Method::POST, &format!("/v1/admin/queues/q0/{action}"), ADMIN, json!({})).await;
    }
    change(Method::DELETE, "/v1/admin/leaderboards/global", &game.server, json!({})).await;
    change(Method::PATCH, "/v1/admin/games/demo", ADMIN, json!({"name": "Demo"})).await;
    let log = world.get("/v1/admin/audit-log?limit=100", Some(ADMIN)).await.json();
    let found: BTreeSet<&str> =
        log["changes"].as_array().unwrap().iter().map(|change| change["action"].as_str().unwrap()).collect();
    let expected = [
        "dead_letter.discard",
        "dead_letter.replay",
        "game.create",
        "game.edit",
        "key.create",
        "key.revoke",
        "leaderboard.create",
        "leaderboard.delete",
        "leaderboard.edit",
        "leaderboard.rebuild",
        "leaderboard.recompute",
        "queue.pause",
        "queue.resume",
    ];
    assert_eq!(found.into_iter().collect::<Vec<_>>(), expected);
}
