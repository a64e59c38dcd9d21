//! What one game may have and change is bounded, and another game does not notice.

use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use hyper::{Method, StatusCode};
use scoreline::domain::game_bounds::GameBounds;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::world::{ADMIN, Answer, Game, World, board};
use crate::support::eventually;

async fn post(world: &World, game: &Game, path: &str, body: &Value) -> Answer {
    world.send(Method::POST, path, Some(&game.server), body).await
}

async fn make(world: &World, game: &Game, spec: &Value) -> Answer {
    post(world, game, "/v1/admin/leaderboards", spec).await
}

fn refused(answer: &Answer, status: StatusCode, code: &str, limit: u64) {
    assert_eq!((answer.status, answer.code().as_str()), (status, code), "{:?}", answer.body);
    assert_eq!(answer.json()["limit"], limit);
}

#[tokio::test]
async fn a_games_leaderboards_are_bounded() {
    let bounds = GameBounds {
        max_leaderboards: 4,
        max_leaderboards_per_event_type: 2,
        max_definition_bytes: 3_000,
        ..GameBounds::default()
    };
    let world = World::with_bounds(bounds).await;
    let (greedy, other) = (world.game("greedy").await, world.game("other").await);
    let of = |slug: &str, kind: &str| json!({"slug": slug, "event_type": kind, "score": "/score"});
    for (slug, kind) in [("a", "t"), ("b", "t"), ("c", "u")] {
        assert_eq!(make(&world, &greedy, &of(slug, kind)).await.status, StatusCode::CREATED);
    }
    refused(&make(&world, &greedy, &of("d", "t")).await, StatusCode::CONFLICT, "too_many_leaderboards_of_type", 2);
    let moved = world.send(Method::PUT, "/v1/admin/leaderboards/c", Some(&greedy.server), &of("c", "t")).await;
    refused(&moved, StatusCode::CONFLICT, "too_many_leaderboards_of_type", 2);
    let mut large = of("c", "u");
    large["match"] = json!([{"pointer": "/mode", "any_of": (0..60).map(|n| format!("{n:060}")).collect::<Vec<_>>()}]);
    let grown = world.send(Method::PUT, "/v1/admin/leaderboards/c", Some(&greedy.server), &large).await;
    refused(&grown, StatusCode::CONFLICT, "definitions_too_large", 3_000);
    assert_eq!(make(&world, &greedy, &of("d", "u")).await.status, StatusCode::CREATED);
    refused(&make(&world, &greedy, &of("e", "v")).await, StatusCode::CONFLICT, "too_many_leaderboards", 4);
    // What there is may be edited and removed, and makes room.
    let mut renamed = of("d", "u");
    renamed["name"] = json!("D");
    assert_eq!(make(&world, &greedy, &renamed).await.status, StatusCode::OK);
    let gone = world.send(Method::DELETE, "/v1/admin/leaderboards/d", Some(&greedy.server), &Value::Null).await;
    assert_eq!(gone.status, StatusCode::NO_CONTENT);
    assert_eq!(make(&world, &greedy, &of("e", "v")).await.status, StatusCode::CREATED);
    assert_eq!(make(&world, &other, &of("a", "t")).await.status, StatusCode::CREATED, "another game has its own");
    let kept = world.get("/v1/admin/leaderboards", Some(&greedy.server)).await.json();
    assert_eq!(kept["leaderboards"].as_array().unwrap().len(), 4, "nothing of what was refused is there");
}

#[tokio::test]
async fn a_games_keys_are_bounded() {
    let world = World::with_bounds(GameBounds { max_keys: 3, ..GameBounds::default() }).await;
    let game = world.game("greedy").await;
    let new = json!({"kind": "client"});
    let made = post(&world, &game, "/v1/admin/keys", &new).await;
    assert_eq!(made.status, StatusCode::CREATED);
    refused(&post(&world, &game, "/v1/admin/keys", &new).await, StatusCode::CONFLICT, "too_many_keys", 3);
    let path = format!("/v1/admin/keys/{}", made.json()["id"]);
    assert_eq!(world.send(Method::DELETE, &path, Some(&game.server), &Value::Null).await.status, StatusCode::OK);
    assert_eq!(post(&world, &game, "/v1/admin/keys", &new).await.status, StatusCode::CREATED);
}

#[tokio::test]
async fn a_games_changes_a_minute_are_bounded() {
    let world = World::with_bounds(GameBounds { max_changes_per_minute: 6, ..GameBounds::default() }).await;
    let (hasty, other) = (world.game("hasty").await, world.game("other").await);
    let named = |number: u32| {
        let mut spec = board("b");
        spec["name"] = json!(format!("Board {number}"));
        spec
    };
    for number in 0..6 {
        assert!(make(&world, &hasty, &named(number)).await.status.is_success(), "{number}");
        // What changes nothing costs nothing.
        assert_eq!(make(&world, &hasty, &named(number)).await.json()["result"], "unchanged");
    }
    let generations = async || -> i32 {
        let query = sqlx::query_scalar("SELECT definitions_generation FROM games WHERE slug = 'hasty'");
        query.fetch_one(&world.db.pool).await.unwrap()
    };
    let before = generations().await;
    let key = json!({"kind": "client"});
    // Another change is under way: whoever is refused does not wait for its end.
    let mut changing = world.db.pool.begin().await.unwrap();
    sqlx::query("SELECT 1 FROM games WHERE slug = 'hasty' FOR UPDATE").execute(&mut *changing).await.unwrap();
    for (method, path, body) in [
        (Method::POST, "/v1/admin/leaderboards", named(7)),
        (Method::PUT, "/v1/admin/leaderboards/b", named(7)),
        (Method::DELETE, "/v1/admin/leaderboards/b", Value::Null),
        (Method::POST, "/v1/admin/leaderboards/b/recompute", Value::Null),
        (Method::POST, "/v1/admin/leaderboards/b/rebuild", Value::Null),
        (Method::POST, "/v1/admin/keys", key.clone()),
    ] {
        let asked = world.send(method.clone(), path, Some(&hasty.server), &body);
        let answer = tokio::time::timeout(Duration::from_secs(10), asked).await.expect("an answer without a lock");
        refused(&answer, StatusCode::TOO_MANY_REQUESTS, "too_many_changes", 6);
        let after: u32 = answer.header("retry-after").parse().unwrap();
        assert!((1..=10).contains(&after), "{method} {path}: {after}");
    }
    changing.rollback().await.unwrap();
    assert_eq!(generations().await, before, "nobody had to read the definitions again");
    assert_eq!(make(&world, &other, &named(0)).await.status, StatusCode::CREATED, "another game has its own");
    let keys = world.get("/v1/admin/keys", Some(&hasty.server)).await.json();
    let client = keys["keys"].as_array().unwrap().iter().find(|key| key["kind"] == "client").unwrap();
    let revoke = format!("/v1/admin/keys/{}", client["id"]);
    let revoked = world.send(Method::DELETE, &revoke, Some(&hasty.server), &Value::Null).await;
    assert_eq!(revoked.status, StatusCode::OK, "a key can always be revoked");
    // As if ten seconds had passed; and as if a clock had been set back.
    for paid in ["changes_paid_until - interval '10 s'", "clock_timestamp() + interval '1 day'"] {
        let earlier = format!("UPDATE games SET changes_paid_until = {paid} WHERE slug = 'hasty'");
        sqlx::raw_sql(sqlx::AssertSqlSafe(earlier)).execute(&world.db.pool).await.unwrap();
        assert_eq!(post(&world, &hasty, "/v1/admin/keys", &key).await.status, StatusCode::CREATED, "{paid}");
    }
}

#[tokio::test]
async fn every_kind_of_change_counts() {
    let world = World::new().await;
    let game = world.game("demo").await;
    let paid = async || -> Option<String> {
        let query = sqlx::query_scalar("SELECT changes_paid_until::text FROM games WHERE slug = 'demo'");
        query.fetch_one(&world.db.pool).await.unwrap()
    };
    let mut renamed = board("b");
    renamed["name"] = json!("Renamed");
    let mut before = paid().await;
    for (method, path, body) in [
        (Method::POST, "/v1/admin/leaderboards", board("b")),
        (Method::PUT, "/v1/admin/leaderboards/b", renamed),
        (Method::POST, "/v1/admin/leaderboards/b/rebuild", Value::Null),
        (Method::POST, "/v1/admin/leaderboards/b/recompute", Value::Null),
        (Method::POST, "/v1/admin/keys", json!({"kind": "client"})),
        (Method::DELETE, "/v1/admin/leaderboards/b", Value::Null),
    ] {
        let change = async || world.send(method.clone(), path, Some(&game.server), &body).await.status;
        eventually("the leaderboard is known", Duration::from_secs(5), async || change().await.is_success()).await;
        let after = paid().await;
        assert_ne!(after, before, "{method} {path}");
        before = after;
    }
}

#[tokio::test]
async fn a_recompute_is_refused_while_one_is_under_way() {
    let world = World::new().await;
    let game = world.game("demo").await;
    world.board(&game, board("b")).await;
    let recompute = async || post(&world, &game, "/v1/admin/leaderboards/b/recompute", &Value::Null).await;
    assert_eq!(recompute().await.status, StatusCode::ACCEPTED);
    for _ in 0..3 {
        let again = recompute().await;
        assert_eq!((again.status, again.code().as_str()), (StatusCode::CONFLICT, "recompute_under_way"));
    }
    let building = "SELECT count(*) FROM leaderboard_generations WHERE state <> 'retired'";
    let count: i64 = sqlx::query_scalar(building).fetch_one(&world.db.pool).await.unwrap();
    assert_eq!(count, 2, "the live one and the one that is computed");
}

/// Begins a change whose body does not come. Says whether the api waits for it.
async fn begin_slowly(world: &World, key: &str) -> (TcpStream, bool) {
    let mut stream = TcpStream::connect(world.address).await.unwrap();
    let head = format!(
        "POST /v1/admin/keys HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\nexpect: 100-continue\r\n\
         content-length: 100\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut begun = [0; 12];
    let answered = tokio::time::timeout(Duration::from_secs(1), stream.read_exact(&mut begun)).await;
    (stream, answered.is_ok_and(|read| read.is_ok()) && &begun == b"HTTP/1.1 100")
}

#[tokio::test]
async fn bodies_that_do_not_come_keep_nobody_from_changing_something() {
    let world = World::new().await;
    let (slow, other) = (world.game("slow").await, world.game("other").await);
    let begun = futures_util::future::join_all((0..40).map(|_| begin_slowly(&world, &slow.server))).await;
    let waited_for = begun.iter().filter(|(_, waits)| *waits).count();
    assert!(waited_for >= 32, "{waited_for}");
    let key = "SELECT id FROM api_keys WHERE kind = 'server' AND game_id = $1";
    for game in [&other, &slow] {
        let id: i32 = sqlx::query_scalar(key).bind(game.id.0).fetch_one(&world.db.pool).await.unwrap();
        let path = format!("/v1/admin/keys/{id}");
        let revoked = world.send(Method::DELETE, &path, Some(&game.server), &Value::Null);
        let revoked = tokio::time::timeout(Duration::from_secs(5), revoked).await.expect("it waits for others' bodies");
        assert_eq!(revoked.status, StatusCode::OK, "{:?}", revoked.body);
    }
}

fn is_told_to_wait(answer: &Answer) {
    assert_eq!((answer.status, answer.code().as_str()), (StatusCode::SERVICE_UNAVAILABLE, "too_many_changes_at_once"));
    assert_eq!(answer.header("retry-after"), "1");
}

#[tokio::test]
async fn changes_of_one_game_that_wait_leave_room_for_those_of_others() {
    let world = World::new().await;
    let (stuck, other) = (world.game("stuck").await, world.game("other").await);
    let mut holding = world.db.pool.begin().await.unwrap();
    sqlx::query("SELECT 1 FROM games WHERE slug = 'stuck' FOR UPDATE").execute(&mut *holding).await.unwrap();
    let key = json!({"kind": "client"});
    let mut many: FuturesUnordered<_> = (0..20).map(|_| post(&world, &stuck, "/v1/admin/keys", &key)).collect();
    let refused = async {
        for _ in 4..20 {
            is_told_to_wait(&many.next().await.unwrap());
        }
    };
    let meanwhile = async {
        let waiting =
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
        eventually("some wait", Duration::from_secs(5), async || {
            sqlx::query_scalar::<_, i64>(waiting).fetch_one(&world.db.pool).await.unwrap() > 2
        })
        .await;
        let made = tokio::time::timeout(Duration::from_secs(4), post(&world, &other, "/v1/admin/keys", &key)).await;
        assert_eq!(made.expect("it waits for another game").status, StatusCode::CREATED);
    };
    tokio::join!(refused, meanwhile);
    // Those that had their turn go on when they can.
    holding.rollback().await.unwrap();
    while let Some(answer) = many.next().await {
        assert_eq!(answer.status, StatusCode::CREATED, "{:?}", answer.body);
    }
}

/// Whatever is added later: a change without a place would be one more than may be at work.
#[tokio::test]
async fn every_change_takes_a_place() {
    let world = World::new().await;
    world.game("demo").await;
    let document = world.get("/openapi.json", None).await.json();
    let mut owner = world.db.owner().await;
    sqlx::raw_sql("BEGIN; LOCK TABLE games IN ACCESS EXCLUSIVE MODE").execute(&mut owner).await.unwrap();
    let change = async |method: Method, path: String, body: Value| world.send(method, &path, Some(ADMIN), &body).await;
    let games = (0..40).map(|n| change(Method::POST, "/v1/admin/games".to_owned(), json!({"slug": format!("g-{n}")})));
    let mut at_work: FuturesUnordered<_> = games.collect();
    for _ in 32..40 {
        is_told_to_wait(&at_work.next().await.unwrap());
    }
    let mut asked = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        let methods = item.as_object().unwrap().keys().filter(|method| *method != "get");
        // Its work takes as long as a board is large, and has bounds of its own.
        if path.starts_with("/v1/admin/") && !path.ends_with("/rebuild") {
            let path = path.replace("{slug}", "demo").replace("{id}", "1").replace("{name}", "q0");
            asked.extend(methods.map(|method| (method.to_uppercase(), format!("{path}?game=demo"))));
        }
    }
    assert!(asked.len() >= 12, "{asked:?}");
    let all = asked.iter().map(|(method, path)| change(method.parse().unwrap(), path.clone(), json!({})));
    let mut all: FuturesUnordered<_> = all.collect();
    for _ in &asked {
        tokio::select! {
            answer = all.next() => is_told_to_wait(&answer.unwrap()),
            served = at_work.next() => panic!("a place is free: {:?}", served.map(|answer| answer.body)),
        }
    }
    sqlx::raw_sql("ROLLBACK").execute(&mut owner).await.unwrap();
    while let Some(answer) = at_work.next().await {
        assert_eq!(answer.status, StatusCode::CREATED, "{:?}", answer.body);
    }
}
