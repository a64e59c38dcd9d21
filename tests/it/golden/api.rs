//! Every refusal of the api's routes, and answers of those that read, as their clients read them.

use std::collections::BTreeSet;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use hyper::{Method, StatusCode};
use scoreline::domain::clock::Micros;
use scoreline::domain::game_bounds::GameBounds;
use serde_json::{Value, json};

use super::{answer_text, codes, compare};
use crate::api::world::{ADMIN, Answer, Game, PUBLIC_READS, World, board};

/// Codes that no request provokes here, and why.
const NOT_PROVOKED: [(&str, &str); 2] = [
    ("definition_invalid", "the reader of definitions finds what could lead to it first"),
    ("rebuild_failed", "Redis or Postgres would have to go away at that very moment"),
];

fn told(what: &str, answer: &Answer) -> String {
    let headers = answer.headers.iter();
    let headers: Vec<_> = headers.map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned())).collect();
    answer_text(what, answer.status.as_u16(), &headers, std::str::from_utf8(&answer.body).unwrap())
}

struct Asked<'a> {
    world: &'a World,
    game: &'a Game,
    found: String,
}

impl Asked<'_> {
    async fn body(&mut self, who: &str, method: Method, path: &str, body: &[u8]) {
        let key = match who {
            "client" => Some(self.game.client.as_str()),
            "server" => Some(self.game.server.as_str()),
            "admin" => Some(ADMIN),
            "stranger" => Some("unknown"),
            _ => None,
        };
        let answer = self.world.request(method.clone(), path, key, &[], body.to_vec().into()).await;
        let shown = if body.len() > 200 { "(long)".to_owned() } else { body.escape_ascii().to_string() };
        self.found += &told(format!("{who}: {method} {path} {shown}").trim_end(), &answer);
    }

    async fn get(&mut self, who: &str, path: &str) {
        self.body(who, Method::GET, path, b"").await;
    }

    async fn send(&mut self, who: &str, method: Method, path: &str, body: &Value) {
        self.body(who, method, path, body.to_string().as_bytes()).await;
    }
}

#[tokio::test]
async fn reading_is_refused_the_same() {
    let world = World::new().await;
    let game = world.game("demo").await;
    let generation = world.board(&game, board("global")).await;
    world.publish(generation, Micros::EPOCH, 1, &[("a", 2)]).await;
    let mut asked = Asked { world: &world, game: &game, found: String::new() };
    for (who, path) in [
        ("nobody", "/v1/nothing"),
        ("nobody", "/v1/leaderboards"),
        ("stranger", "/v1/leaderboards"),
        ("admin", "/v1/leaderboards"),
        ("admin", "/v1/leaderboards?game=nope"),
        ("client", "/v1/admin/keys"),
        ("server", "/v1/admin/games"),
        ("client", "/v1/leaderboards/nope"),
        ("nobody", "/v1/public/nope/leaderboards"),
        ("nobody", "/v1/public/demo/leaderboards/global"),
    ] {
        asked.get(who, path).await;
    }
    let base = "/v1/leaderboards/global/entries";
    for beside in [
        "?limit=0",
        "?cursor=x",
        "?include=all",
        "?period=yesterday",
        "?period=99999",
        "/nobody",
        "/nobody/around",
        "/bad%20id",
        "/%ff",
    ] {
        asked.get("client", &format!("{base}{beside}")).await;
    }
    let lookup = format!("{base}/lookup");
    let many = json!({"player_ids": (0..501).map(|n| format!("p-{n}")).collect::<Vec<_>>()});
    asked.send("client", Method::POST, &lookup, &many).await;
    asked.body("client", Method::POST, &lookup, b"{").await;
    asked.body("client", Method::POST, &lookup, b"{\"player_ids\":7}").await;
    asked.body("client", Method::POST, &lookup, &vec![b' '; 300_000]).await;
    asked.body("client", Method::DELETE, "/v1/leaderboards", b"").await;
    // Redis has lost the board, and it is too large to be answered from Postgres.
    let period = scoreline::domain::period::Period::WHOLE;
    let period = scoreline::store::periods::ensure(&world.db.pool, generation, &period).await.unwrap();
    let many = "INSERT INTO leaderboard_entries
                    (period_id, player_id, score, subscore, reached_at, event_id, plays, version)
                SELECT $1, 'many-' || n, n, 0, now(), gen_random_uuid(), 1, n FROM generate_series(1, 1001) n";
    sqlx::query(many).bind(period.id).execute(&world.db.pool).await.unwrap();
    ::redis::cmd("FLUSHALL").exec(&mut world.redis.connection()).unwrap();
    crate::support::eventually("the board is refused", std::time::Duration::from_secs(5), async || {
        let answer = world.get(&format!("{base}?limit=7"), Some(&game.client)).await;
        answer.status == StatusCode::SERVICE_UNAVAILABLE
    })
    .await;
    asked.get("client", &format!("{base}?limit=8")).await;
    compare("refusals/api-reading.txt", &asked.found);
}

#[tokio::test]
async fn administration_is_refused_the_same() {
    let mut world = World::new().await;
    let game = world.game("demo").await;
    let generation = world.board(&game, board("global")).await;
    let mut asked = Asked { world: &world, game: &game, found: String::new() };
    for (who, path) in [
        ("server", "/v1/admin/leaderboards/nope"),
        ("server", "/v1/admin/dead-letters?state=lost"),
        ("server", "/v1/admin/dead-letters?kind=bad%20id"),
        ("server", "/v1/admin/dead-letters?after=x"),
        ("server", "/v1/admin/dead-letters/018f4a3e-7d1c-7c3a-9a52-1f2b3c4d5e6f"),
        ("server", "/v1/admin/audit-log?before=x"),
        ("server", "/v1/leaderboards/global/periods?before=x"),
    ] {
        asked.get(who, path).await;
    }
    let of = |more: Value| {
        let mut spec = board("global");
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        spec
    };
    let boards = "/v1/admin/leaderboards";
    for spec in [
        json!([]),
        json!({"slug": "global"}),
        of(json!({"colour": "red"})),
        of(json!({"operator": "sum"})),
        of(json!({"score": "s"})),
        of(json!({"reset": {"cron": "x"}})),
        of(json!({"time_zone": "Mars/Olympus"})),
        of(json!({"min_score": 2, "max_score": 1})),
        of(json!({"match": [{"pointer": "/m"}]})),
    ] {
        asked.send("server", Method::POST, boards, &spec).await;
    }
    asked.body("server", Method::POST, boards, b"{").await;
    asked.body("server", Method::POST, boards, b"\"\\u0000\"").await;
    asked.send("server", Method::PUT, &format!("{boards}/other"), &board("global")).await;
    asked.send("server", Method::DELETE, &format!("{boards}/nope"), &Value::Null).await;
    asked.send("admin", Method::POST, "/v1/admin/games", &json!({"slug": "demo", "name": "Demo"})).await;
    asked.send("admin", Method::POST, "/v1/admin/games", &json!({"slug": "other", "name": "\n"})).await;
    asked.send("admin", Method::POST, "/v1/admin/games", &json!({"slug": "B B"})).await;
    asked.send("admin", Method::PATCH, "/v1/admin/games/nope", &json!({"name": "x"})).await;
    asked.send("server", Method::POST, "/v1/admin/keys", &json!({"kind": "observer"})).await;
    asked.send("server", Method::POST, "/v1/admin/keys", &json!({"kind": "client", "label": "\n"})).await;
    asked.send("server", Method::DELETE, "/v1/admin/keys/99999", &Value::Null).await;
    let ids: Vec<uuid::Uuid> = (0..1_001).map(uuid::Uuid::from_u128).collect();
    asked.send("server", Method::POST, "/v1/admin/dead-letters/discard", &json!({"ids": ids})).await;
    asked.send("admin", Method::POST, "/v1/admin/queues/q7/pause", &Value::Null).await;
    let token = world.ranking.begin_rebuild(generation).await.unwrap();
    asked.send("server", Method::POST, &format!("{boards}/global/rebuild"), &Value::Null).await;
    world.ranking.abort_rebuild(&token).await.unwrap();
    let dropped = "INSERT INTO baseline_progress (partition_name, range_start, range_end, dropped_at)
                   VALUES ('events_2026_08', '2026-08-01', '2026-09-01', now())";
    let period = scoreline::domain::period::Period::WHOLE;
    scoreline::store::periods::ensure(&world.db.pool, generation, &period).await.unwrap();
    sqlx::query(dropped).execute(&world.db.pool).await.unwrap();
    asked.send("server", Method::PUT, &format!("{boards}/global"), &of(json!({"score": "/points"}))).await;
    sqlx::query("DELETE FROM baseline_progress").execute(&world.db.pool).await.unwrap();
    let recompute = format!("{boards}/global/recompute");
    let first = world.send(Method::POST, &recompute, Some(&game.server), &Value::Null).await;
    assert_eq!(first.status, StatusCode::ACCEPTED, "{:?}", first.body);
    asked.send("server", Method::POST, &recompute, &Value::Null).await;
    let mut owner = world.db.superuser().await;
    sqlx::raw_sql("ALTER TABLE dead_letters RENAME TO gone").execute(&mut owner).await.unwrap();
    asked.get("server", "/v1/admin/dead-letters").await;
    let mut found = std::mem::take(&mut asked.found);
    world.redis.kill();
    let mut asked = Asked { world: &world, game: &game, found: String::new() };
    asked.get("admin", "/v1/admin/queues").await;
    found += &asked.found;
    compare("refusals/api-administration.txt", &found);
}

/// When a change is allowed again depends on the clock.
fn without_seconds(text: &str) -> String {
    let line = |line: &str| match line.split_once("\"retry_after\":") {
        Some((before, after)) => {
            format!("{before}\"retry_after\":<seconds>{}", after.trim_start_matches(|c: char| c.is_ascii_digit()))
        }
        None if line.starts_with("retry-after: ") => "retry-after: <seconds>".to_owned(),
        None => line.to_owned(),
    };
    text.lines().map(|text| line(text) + "\n").collect()
}

#[tokio::test]
async fn what_is_too_much_is_refused_the_same() {
    let bounds = GameBounds {
        max_leaderboards: 2,
        max_leaderboards_per_event_type: 1,
        max_definition_bytes: 1_000,
        max_keys: 2,
        max_changes_per_minute: 2,
    };
    let world = World::with_bounds(bounds).await;
    let game = world.game("demo").await;
    let mut asked = Asked { world: &world, game: &game, found: String::new() };
    let boards = "/v1/admin/leaderboards";
    let of = |slug: &str, kind: &str| json!({"slug": slug, "event_type": kind, "score": "/score", "public": true});
    for (slug, kind) in [("a", "t"), ("b", "u")] {
        let made = world.send(Method::POST, boards, Some(&game.server), &of(slug, kind)).await;
        assert_eq!(made.status, StatusCode::CREATED);
    }
    asked.send("server", Method::POST, boards, &of("c", "v")).await;
    let changes = std::mem::take(&mut asked.found);
    let paid = "UPDATE games SET changes_paid_until = 'epoch'";
    sqlx::query(paid).execute(&world.db.pool).await.unwrap();
    asked.send("server", Method::POST, boards, &of("c", "v")).await;
    asked.send("server", Method::PUT, &format!("{boards}/b"), &of("b", "t")).await;
    let mut large = of("b", "u");
    large["match"] = json!([{"pointer": "/mode", "any_of": (0..20).map(|n| format!("{n:060}")).collect::<Vec<_>>()}]);
    asked.send("server", Method::PUT, &format!("{boards}/b"), &large).await;
    sqlx::query(paid).execute(&world.db.pool).await.unwrap();
    asked.send("server", Method::POST, "/v1/admin/keys", &json!({"kind": "client"})).await;
    // Each asks for another period, as one that is asked for again costs Postgres nothing.
    let base = "/v1/public/demo/leaderboards/a/entries";
    for number in 0..PUBLIC_READS {
        world.get(&format!("{base}?period={}", 1_000_000 + number), None).await;
    }
    asked.get("nobody", &format!("{base}?period=9999999")).await;
    for guess in 0..scoreline::http::failed_guesses::MAX_FAILED_GUESSES {
        world.get("/v1/leaderboards", Some(&format!("guess-{guess}"))).await;
    }
    asked.get("stranger", "/v1/leaderboards").await;
    compare("refusals/api-bounds.txt", &(without_seconds(&changes) + &asked.found));
}

#[tokio::test]
async fn a_change_for_which_no_place_comes_free_is_refused_the_same() {
    let world = World::new().await;
    let game = world.game("demo").await;
    let mut holding = world.db.pool.begin().await.unwrap();
    sqlx::query("SELECT 1 FROM games FOR UPDATE").execute(&mut *holding).await.unwrap();
    let key = json!({"kind": "client"});
    let change = async || world.send(Method::POST, "/v1/admin/keys", Some(&game.server), &key).await;
    // One more than there are places for. Whichever came last waits for it in vain.
    let mut changes: FuturesUnordered<_> = (0..5).map(|_| change()).collect();
    let refused = changes.next().await.unwrap();
    compare("refusals/api-changes.txt", &told("server: POST /v1/admin/keys, the fifth at once", &refused));
    holding.rollback().await.unwrap();
    while let Some(made) = changes.next().await {
        assert_eq!(made.status, StatusCode::CREATED);
    }
}

/// Names of codes that the document lists.
fn documented() -> BTreeSet<String> {
    let document = serde_json::to_value(scoreline::api::document()).unwrap();
    let text = document["components"]["schemas"]["ProblemCode"]["description"].as_str().unwrap().to_owned();
    text.lines().filter_map(|line| Some(line.strip_prefix("| `")?.split_once("` | ")?.0.to_owned())).collect()
}

#[test]
fn every_code_of_a_refusal_stands_in_a_golden_file() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/refusals");
    let mut held: BTreeSet<String> = BTreeSet::new();
    for file in std::fs::read_dir(folder).unwrap() {
        held.append(&mut codes(&std::fs::read_to_string(file.unwrap().path()).unwrap()));
    }
    let missing: Vec<String> = documented().difference(&held).cloned().collect();
    assert_eq!(missing, NOT_PROVOKED.map(|(code, _)| code.to_owned()), "as documented, and not as held");
}
