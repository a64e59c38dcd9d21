//! Standings, friends, what is included, and hostile input.

use hyper::{Method, StatusCode};
use scoreline::domain::clock::Micros;
use scoreline::domain::period::Period;
use scoreline::store::periods;
use serde_json::json;

use super::world::{PUBLIC_READS, World, board};

#[tokio::test]
async fn friends_are_ranked_among_themselves_and_overall() {
    let world = World::new().await;
    let game = world.game("demo").await;
    let generation = world.board(&game, board("global")).await;
    let scores = [("a", 9), ("b", 8), ("c", 7), ("lookup", 6)];
    world.publish(generation, Micros::EPOCH, 1, &scores).await;
    let path = "/v1/leaderboards/global/entries/lookup";
    let body = json!({"player_ids": ["c", "nobody", "b", "b"]});
    let answer = world.send(Method::POST, path, Some(&game.client), &body).await;
    assert_eq!(answer.players(), ["b", "c"]);
    assert_eq!(answer.ranks(), [2, 3]);
    assert_eq!(answer.json()["entries"][1]["rank_among"], 2);
    assert_eq!(answer.json()["total"], 4);
    let none = world.send(Method::POST, path, Some(&game.client), &json!({"player_ids": []})).await;
    assert_eq!((none.status, none.players().len()), (StatusCode::OK, 0));
    // A player may be called like the route.
    assert_eq!(world.get(path, Some(&game.client)).await.json()["entry"]["rank"], 4);

    let many: Vec<String> = (0..501).map(|i| format!("p{i}")).collect();
    let answer = world.send(Method::POST, path, Some(&game.client), &json!({"player_ids": many})).await;
    assert_eq!((answer.status, answer.code().as_str()), (StatusCode::BAD_REQUEST, "too_many_players"));
    let most = world.send(Method::POST, path, Some(&game.client), &json!({"player_ids": many[..500]})).await;
    assert_eq!(most.status, StatusCode::OK);
    for bad in ["", "[", "{}", "[]", "{\"player_ids\":[1]}", "{\"player_ids\":[\"a b\"]}", "{\"player_ids\":[\"\"]}"] {
        let answer = world.request(Method::POST, path, Some(&game.client), &[], bad.to_owned().into()).await;
        assert_eq!((answer.status, answer.code().as_str()), (StatusCode::BAD_REQUEST, "body_invalid"), "{bad}");
    }
    let huge = world.request(Method::POST, path, Some(&game.client), &[], vec![b' '; 300_000].into()).await;
    assert_eq!((huge.status, huge.code().as_str()), (StatusCode::PAYLOAD_TOO_LARGE, "body_too_large"));
}

#[tokio::test]
async fn plays_and_metadata_come_only_when_asked_for() {
    let world = World::new().await;
    let game = world.game("demo").await;
    let generation = world.board(&game, board("global")).await;
    let period = Period { starts_at: Micros::EPOCH, ends_at: None };
    let period = periods::ensure(&world.db.pool, generation, &period).await.unwrap();
    let scores = [("a", 9), ("b", 8)];
    world.store(generation, period, &scores).await;
    world.make_ready(generation).await;
    let base = "/v1/leaderboards/global/entries";
    let plain = world.get(base, Some(&game.client)).await.json();
    assert!(plain["entries"][1].get("plays").is_none() && plain["entries"][1].get("metadata").is_none());
    let full = world.get(&format!("{base}?include=plays,metadata"), Some(&game.client)).await.json();
    assert_eq!(full["entries"][1]["plays"], 2);
    assert_eq!(full["entries"][1]["metadata"], json!({"car": "red"}));
    let plays = world.get(&format!("{base}/a?include=plays"), Some(&game.client)).await.json();
    assert_eq!((&plays["entry"]["plays"], plays["entry"].get("metadata")), (&json!(1), None));
    assert_eq!(world.get(&format!("{base}?include=secrets"), Some(&game.client)).await.code(), "include_invalid");
}

#[tokio::test]
async fn what_include_adds_has_a_version_that_moves_with_it() {
    let world = World::new().await;
    let game = world.game("demo").await;
    let generation = world.board(&game, board("global")).await;
    let period = Period { starts_at: Micros::EPOCH, ends_at: None };
    let period = periods::ensure(&world.db.pool, generation, &period).await.unwrap();
    world.store(generation, period, &[("a", 9), ("b", 8)]).await;
    world.make_ready(generation).await;
    let base = "/v1/leaderboards/global/entries";
    let ask = async |path: String| {
        let answer = world.get(&path, Some(&game.client)).await;
        (answer.json()["include_version"].clone(), answer.header("etag").to_owned())
    };
    let looked_up = async || {
        let wanted = json!({"player_ids": ["a", "b"]});
        let path = format!("{base}/lookup?include=plays");
        world.send(Method::POST, &path, Some(&game.client), &wanted).await.json()["include_version"].clone()
    };
    assert_eq!(ask(base.to_owned()).await.0, json!(null));
    let paths =
        [format!("{base}?include=plays"), format!("{base}/a?include=plays"), format!("{base}/a/around?include=plays")];
    let mut before = Vec::new();
    for path in &paths {
        before.push(ask(path.clone()).await);
    }
    let before_lookup = looked_up().await;
    let metadata = ask(format!("{base}/a?include=metadata")).await;
    // A play that improves nothing: no new version of the leaderboard.
    sqlx::query("UPDATE leaderboard_entries SET plays = plays + 1 WHERE player_id = 'a'")
        .execute(&world.db.pool)
        .await
        .unwrap();
    for (path, before) in paths.iter().zip(before) {
        assert!(before.0.is_string(), "{path}");
        let moved = async || {
            let now = ask(path.clone()).await;
            now.0 != before.0 && now.1 != before.1
        };
        crate::support::eventually("both have moved", std::time::Duration::from_secs(5), moved).await;
    }
    assert_ne!(looked_up().await, before_lookup);
    assert_eq!(ask(format!("{base}/a?include=metadata")).await.0, metadata.0, "nothing of it has changed");
}

#[tokio::test]
async fn a_hostile_name_costs_its_own_request_only() {
    let world = World::new().await;
    let game = world.game("demo").await;
    let generation = world.board(&game, board("global")).await;
    world.publish(generation, Micros::EPOCH, 1, &[("a", 9), ("a/b:c", 8)]).await;
    let get = async |path: &str| world.get(path, Some(&game.client)).await;
    assert_eq!(get("/v1/leaderboards/global/entries/a%2Fb%3Ac").await.json()["entry"]["rank"], 2);
    for hostile in ["%00", "*", "%0d%0aSET%20x", "%7Bsl%7D", "';--", "%3Cscript%3E", "%FF", "null", &"x".repeat(129)] {
        let answer = get(&format!("/v1/leaderboards/global/entries/{hostile}")).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{hostile}");
        assert!(["player_id_invalid", "path_invalid"].contains(&answer.code().as_str()), "{hostile}");
        let answer = get(&format!("/v1/leaderboards/{hostile}/entries")).await;
        assert!(answer.status.is_client_error(), "{hostile}");
        let answer = get(&format!("/v1/public/{hostile}/leaderboards/global")).await;
        assert!(answer.status.is_client_error(), "{hostile}");
    }
    assert_eq!(get("/v1/leaderboards/global/entries/nobody").await.code(), "no_entry");
    assert_eq!(get("/v1/leaderboards/global/entries/nobody/around").await.code(), "no_entry");
    for bad in ["limit=0", "limit=1001", "limit=-1", "limit=x"] {
        assert_eq!(get(&format!("/v1/leaderboards/global/entries?{bad}")).await.code(), "limit_invalid", "{bad}");
    }
    assert_eq!(get("/v1/nothing").await.code(), "route_not_found");
    let answer = world.send(Method::DELETE, "/v1/leaderboards/global/entries", Some(&game.client), &json!({})).await;
    assert_eq!((answer.status, answer.code().as_str()), (StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed"));
    let keys: Vec<String> = redis::cmd("KEYS").arg("*").query(&mut world.redis.connection()).unwrap();
    assert!(keys.iter().all(|key| key.starts_with("{sl:b3:") || key.contains("sl:directory")), "{keys:?}");
}

#[tokio::test]
async fn readers_without_a_key_ask_postgres_so_often() {
    let world = World::new().await;
    let game = world.game("demo").await;
    let mut spec = board("global");
    spec["public"] = true.into();
    let generation = world.board(&game, spec).await;
    world.publish(generation, Micros::EPOCH, 1, &[("a", 9)]).await;
    let base = "/v1/public/demo/leaderboards/global/entries";
    for period in 0..PUBLIC_READS {
        let answer = world.get(&format!("{base}?period={}", 1_000_000 + period), None).await;
        assert_eq!(answer.code(), "period_not_found", "{period}");
    }
    for dear in ["?period=9999999", "/a?include=plays", "?include=metadata"] {
        let refused = world.get(&format!("{base}{dear}"), None).await;
        assert_eq!((refused.status.as_u16(), refused.code().as_str()), (429, "too_many_reads"), "{dear}");
        assert_eq!(refused.header("retry-after"), "60", "{dear}");
    }
    // What costs Postgres nothing, and who has a key, go on.
    for cheap in ["", "/a"] {
        assert_ne!(world.get(&format!("{base}{cheap}"), None).await.status.as_u16(), 429, "{cheap}");
    }
    let keyed = world.get("/v1/leaderboards/global/entries/a?include=plays", Some(&game.client)).await;
    assert_eq!(keyed.status, StatusCode::OK);
}
