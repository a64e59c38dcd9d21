//! Who may do what. `abuse::matrix` walks every route with every kind of key.

use base64::Engine as _;
use hyper::{Method, StatusCode};
use scoreline::domain::clock::Micros;
use serde_json::{Value, json};

use super::world::{ADMIN, World, board};

#[tokio::test]
async fn one_games_key_finds_nothing_of_another() {
    let world = World::new().await;
    let (one, two) = (world.game("one").await, world.game("two").await);
    let generation = world.board(&one, board("secret")).await;
    world.publish(generation, Micros::EPOCH, 1, &[("p-1", 1)]).await;
    let keys = world.get("/v1/admin/keys", Some(&one.server)).await.json();
    let key_of_one = keys["keys"][0]["id"].as_i64().unwrap();
    for key in [&two.client, &two.server] {
        for path in ["", "/entries", "/entries/p-1", "/entries/p-1/around", "/periods"] {
            let answer = world.get(&format!("/v1/leaderboards/secret{path}"), Some(key)).await;
            assert_eq!(
                (answer.status, answer.code().as_str()),
                (StatusCode::NOT_FOUND, "leaderboard_not_found"),
                "{path}"
            );
        }
        assert_eq!(world.get("/v1/leaderboards", Some(key)).await.json()["leaderboards"], json!([]));
    }
    // ?game= is the admin token's only.
    let list = world.get("/v1/admin/leaderboards?game=one", Some(&two.server)).await.json();
    assert_eq!(list["leaderboards"], json!([]));
    for (method, path) in [
        (Method::GET, "/v1/admin/leaderboards/secret".to_owned()),
        (Method::DELETE, "/v1/admin/leaderboards/secret".to_owned()),
        (Method::DELETE, format!("/v1/admin/keys/{key_of_one}")),
    ] {
        let answer = world.send(method, &path, Some(&two.server), &json!({})).await;
        assert_eq!(answer.status, StatusCode::NOT_FOUND, "{path}");
    }
    assert_eq!(world.get("/v1/leaderboards/secret/entries", Some(&one.client)).await.players(), ["p-1"]);
}

#[tokio::test]
async fn a_key_may_come_as_basic_user_name_and_the_admin_token_names_a_game() {
    let world = World::new().await;
    let game = world.game("demo").await;
    let basic = base64::engine::general_purpose::STANDARD.encode(format!("{}:", game.client));
    let header = format!("Basic {basic}");
    let answer = world.request(Method::GET, "/v1/leaderboards", None, &[("authorization", &header)], "".into()).await;
    assert_eq!(answer.status, StatusCode::OK);
    let lower = format!("bearer {}", game.client);
    let answer = world.request(Method::GET, "/v1/leaderboards", None, &[("authorization", &lower)], "".into()).await;
    assert_eq!(answer.status, StatusCode::OK);
    for (header, code) in [
        ("Bearer", "key_missing"),
        ("Bearer ", "key_missing"),
        ("Digest x", "key_missing"),
        ("x", "key_missing"),
        ("Basic !", "key_unknown"),
        ("Bearer x", "key_unknown"),
    ] {
        let answer =
            world.request(Method::GET, "/v1/leaderboards", None, &[("authorization", header)], "".into()).await;
        assert_eq!((answer.status, answer.code().as_str()), (StatusCode::UNAUTHORIZED, code), "{header}");
        assert!(answer.header("www-authenticate").starts_with("Bearer"));
    }
    assert_eq!(world.get("/v1/leaderboards", None).await.code(), "key_missing");
    assert_eq!(world.get("/v1/leaderboards", Some(ADMIN)).await.code(), "game_required");
    assert_eq!(world.get("/v1/leaderboards?game=demo", Some(ADMIN)).await.status, StatusCode::OK);
    assert_eq!(world.get("/v1/leaderboards?game=nope", Some(ADMIN)).await.code(), "game_not_found");
    // Half of the token is no token.
    assert_eq!(world.get("/v1/admin/games", Some(&ADMIN[..20])).await.code(), "key_unknown");
}

#[tokio::test]
async fn who_guesses_keys_is_slowed_down_and_others_are_not() {
    let world = World::with(|http| http.trusted_proxies.push("127.0.0.0/8".parse().unwrap())).await;
    let game = world.game("demo").await;
    let ask = async |key: &str, address: &str| {
        let authorization = format!("Bearer {key}");
        let headers = [("authorization", authorization.as_str()), ("x-forwarded-for", address)];
        world.request(Method::GET, "/v1/admin/games", None, &headers, "".into()).await
    };
    let mut refused = 0;
    for guess in 0..40 {
        let answer = ask(&format!("guess-{guess}"), "203.0.113.7").await;
        if answer.status == StatusCode::TOO_MANY_REQUESTS {
            assert_eq!((answer.code().as_str(), answer.header("retry-after")), ("too_many_unknown_keys", "60"));
            refused += 1;
        }
    }
    assert_eq!(refused, 20);
    // Not even the right token, from there.
    assert_eq!(ask(ADMIN, "203.0.113.7").await.status, StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(ask(ADMIN, "203.0.113.8").await.status, StatusCode::OK);
    // A player behind the same address still reads.
    let headers = [("authorization", &*format!("Bearer {}", game.client)), ("x-forwarded-for", "203.0.113.7")];
    let answer = world.request(Method::GET, "/v1/leaderboards", None, &headers, "".into()).await;
    assert_eq!(answer.status, StatusCode::OK);
    world.now.fetch_add(60_000_000, std::sync::atomic::Ordering::Relaxed);
    assert_eq!(ask(ADMIN, "203.0.113.7").await.status, StatusCode::OK);
}

#[tokio::test]
async fn browsers_may_call_from_configured_origins_only() {
    let world = World::with(|http| http.cors_origins.push("https://game.example".to_owned())).await;
    let game = world.game("demo").await;
    let get = async |origin: &str| {
        let authorization = format!("Bearer {}", game.client);
        let headers = [("authorization", authorization.as_str()), ("origin", origin)];
        world.request(Method::GET, "/v1/leaderboards", None, &headers, "".into()).await
    };
    assert_eq!(get("https://game.example").await.header("access-control-allow-origin"), "https://game.example");
    assert_eq!(get("https://evil.example").await.header("access-control-allow-origin"), "");
    let headers = [
        ("origin", "https://game.example"),
        ("access-control-request-method", "POST"),
        ("access-control-request-headers", "authorization"),
    ];
    let path = "/v1/leaderboards/global/entries/lookup";
    let preflight = world.request(Method::OPTIONS, path, None, &headers, "".into()).await;
    assert!(preflight.status.is_success());
    assert!(preflight.header("access-control-allow-headers").contains("authorization"));
}

#[tokio::test]
async fn no_key_or_hash_appears_where_keys_are_listed() {
    let world = World::new().await;
    let game = world.game("demo").await;
    let made = world.send(Method::POST, "/v1/admin/keys", Some(&game.server), &json!({"kind": "server"})).await;
    let secret = made.json()["key"].as_str().unwrap().to_owned();
    for path in ["/v1/admin/keys", "/v1/admin/audit-log", "/v1/leaderboards", "/v1/admin/leaderboards"] {
        let body = String::from_utf8(world.get(path, Some(&game.server)).await.body.to_vec()).unwrap();
        let hash = hex::encode(scoreline::directory::hash_key(&secret));
        for canary in [secret.as_str(), game.server.as_str(), game.client.as_str(), hash.as_str(), ADMIN] {
            assert!(!body.contains(canary), "{path}: {body}");
        }
    }
    let listed: Value = world.get("/v1/admin/keys", Some(&game.server)).await.json();
    assert_eq!(listed["keys"][0]["hint"].as_str().unwrap(), &secret[..14]);
}
