//! Pages: shape, ties, cursors, caching, and where answers come from.

use std::sync::atomic::Ordering;
use std::time::Duration;

use hyper::{Method, StatusCode};
use scoreline::domain::clock::Micros;
use scoreline::domain::period::Period;
use scoreline::store::periods;
use serde_json::{Value, json};

use super::world::{NOW, World, board};
use crate::support::eventually;

const EPOCH: Micros = Micros::EPOCH;

#[tokio::test]
async fn a_page_has_the_shape_of_the_contract() {
    let world = World::new().await;
    let game = world.game("demo").await;
    let generation = world.board(&game, board("global")).await;
    world.publish(generation, EPOCH, 1, &[("p-17", 4200), ("p-2", 10)]).await;
    let answer = world.get("/v1/leaderboards/global/entries?limit=1", Some(&game.client)).await;
    assert_eq!(answer.status, StatusCode::OK, "{:?}", answer.body);
    let json = answer.json();
    let keys: Vec<&String> = json.as_object().unwrap().keys().collect();
    assert_eq!(
        keys,
        ["as_of", "entries", "leaderboard", "next_cursor", "period", "prev_cursor", "total", "version"],
        "{json}"
    );
    assert_eq!(json["leaderboard"], "global");
    assert_eq!(json["period"]["starts_at"], "1970-01-01T00:00:00Z");
    assert_eq!(json["period"]["ends_at"], Value::Null);
    assert!(json["period"]["id"].as_i64().unwrap() > 0);
    assert_eq!(json["as_of"], NOW.to_string());
    assert_eq!(json["total"], 2);
    assert!(json["version"].as_i64().unwrap() > 0);
    let expected = json!({"rank": 1, "player_id": "p-17", "score": 4200, "subscore": 0, "reached_at": NOW.to_string()});
    assert_eq!(json["entries"], json!([expected]));
    assert!(json["next_cursor"].is_string());
    assert_eq!(json["prev_cursor"], Value::Null);
}

#[tokio::test]
async fn both_tie_policies_rank_pages_and_standings_alike() {
    let world = World::new().await;
    let game = world.game("demo").await;
    let scores = [("a", 9), ("b", 5), ("c", 5), ("d", 1)];
    for (policy, ranks) in [("ordinal", [1, 2, 3, 4]), ("competition", [1, 2, 2, 4])] {
        let mut spec = board(policy);
        spec["tie_policy"] = policy.into();
        let generation = world.board(&game, spec).await;
        world.publish(generation, EPOCH, 1, &scores).await;
        let base = format!("/v1/leaderboards/{policy}/entries");
        assert_eq!(world.get(&base, Some(&game.client)).await.ranks(), ranks);
        let second = world.get(&format!("{base}?limit=2"), Some(&game.client)).await.json()["next_cursor"].clone();
        let second =
            world.get(&format!("{base}?limit=2&cursor={}", second.as_str().unwrap()), Some(&game.client)).await;
        assert_eq!(second.ranks(), ranks[2..], "a page that begins within a tie");
        for ((player, _), rank) in scores.iter().zip(ranks) {
            let standing = world.get(&format!("{base}/{player}"), Some(&game.client)).await.json();
            assert_eq!(standing["entry"]["rank"], rank, "{policy} {player}");
        }
        let around = world.get(&format!("{base}/c/around?limit=3"), Some(&game.client)).await;
        assert_eq!((around.players(), around.ranks()), (vec!["b".into(), "c".into(), "d".into()], ranks[1..].to_vec()));
    }
}

#[tokio::test]
async fn pages_go_there_and_back_while_entries_move() {
    let world = World::new().await;
    let game = world.game("demo").await;
    let generation = world.board(&game, board("global")).await;
    let names: Vec<String> = (0..25).map(|i| format!("p{i:02}")).collect();
    let scores: Vec<(&str, i64)> = names.iter().zip(0..).map(|(n, i)| (n.as_str(), 100 - i)).collect();
    world.publish(generation, EPOCH, 1, &scores).await;
    let page = async |cursor: Option<&Value>| {
        let cursor = cursor.map_or(String::new(), |c| format!("&cursor={}", c.as_str().unwrap()));
        world.get(&format!("/v1/leaderboards/global/entries?limit=10{cursor}"), Some(&game.client)).await
    };
    let first = page(None).await;
    assert_eq!(first.players(), names[..10]);
    // The last entry of the first page, from which its cursor was made, moves to the top.
    world.publish(generation, EPOCH, 2, &[("p09", 1_000)]).await;
    let next = first.json()["next_cursor"].clone();
    let second = page(Some(&next)).await;
    assert_eq!(second.players(), names[10..20]);
    assert_eq!(second.ranks()[0], 11);
    let third = page(Some(&second.json()["next_cursor"])).await;
    assert_eq!((third.players(), third.json()["next_cursor"].clone()), (names[20..].to_vec(), Value::Null));
    let back = page(Some(&third.json()["prev_cursor"])).await;
    assert_eq!(back.players(), second.players());
    let front = page(Some(&back.json()["prev_cursor"])).await;
    assert_eq!(front.players()[..2], ["p09", "p00"]);
    assert_eq!(front.json()["prev_cursor"], Value::Null);
}

#[tokio::test]
async fn a_damaged_or_foreign_cursor_is_refused() {
    let world = World::new().await;
    let game = world.game("demo").await;
    let one = world.board(&game, board("one")).await;
    let two = world.board(&game, board("two")).await;
    for generation in [one, two] {
        world.publish(generation, EPOCH, 1, &[("a", 2), ("b", 1)]).await;
    }
    let cursor =
        world.get("/v1/leaderboards/one/entries?limit=1", Some(&game.client)).await.json()["next_cursor"].clone();
    let cursor = cursor.as_str().unwrap();
    for bad in [
        &format!("two/entries?cursor={cursor}"),
        "one/entries?cursor=",
        "one/entries?cursor=AAAA",
        "one/entries?cursor=%00",
        "one/entries?cursor=*",
        &format!("one/entries?cursor={}", &cursor[..cursor.len() - 3]),
        &format!("one/entries?cursor={}", "A".repeat(10_000)),
        &format!("one/entries?period=999&cursor={cursor}"),
    ] {
        let answer = world.get(&format!("/v1/leaderboards/{bad}"), Some(&game.client)).await;
        assert_eq!((answer.status, answer.code().as_str()), (StatusCode::BAD_REQUEST, "cursor_invalid"), "{bad}");
    }
    // A new generation of the same board.
    let mut edited = board("one");
    edited["operator"] = "incr".into();
    world.board(&game, edited).await;
    let answer = world.get(&format!("/v1/leaderboards/one/entries?cursor={cursor}"), Some(&game.client)).await;
    assert_eq!(answer.code(), "cursor_invalid");
}

#[tokio::test]
async fn a_publication_drops_the_cached_page_at_once() {
    let world = World::new().await;
    let game = world.game("demo").await;
    let generation = world.board(&game, board("global")).await;
    world.publish(generation, EPOCH, 1, &[("a", 1)]).await;
    let path = "/v1/leaderboards/global/entries";
    for round in 2..30 {
        let before = world.get(path, Some(&game.client)).await;
        let again = world.get(path, Some(&game.client)).await;
        assert_eq!(before.header("etag"), again.header("etag"));
        world.publish(generation, EPOCH, round, &[("a", round)]).await;
        // Far below the second that would pass without the notice.
        eventually("the new score is on the page", Duration::from_millis(500), || async {
            let json = world.get(path, Some(&game.client)).await.json();
            json["entries"][0]["score"] == round
        })
        .await;
    }
}

#[tokio::test]
async fn without_notices_a_page_is_still_made_anew() {
    let world = World::deaf().await;
    let game = world.game("demo").await;
    let generation = world.board(&game, board("global")).await;
    world.publish(generation, EPOCH, 1, &[("a", 1)]).await;
    let page = async || world.get("/v1/leaderboards/global/entries", Some(&game.client)).await;
    assert_eq!(page().await.json()["entries"][0]["score"], 1);
    world.publish(generation, EPOCH, 2, &[("a", 2)]).await;
    eventually("the new score is on the page", Duration::from_secs(20), async || {
        page().await.json()["entries"][0]["score"] == 2
    })
    .await;
}

#[tokio::test]
async fn many_readers_of_a_page_cost_redis_few_calls() {
    let world = World::new().await;
    let game = world.game("demo").await;
    let generation = world.board(&game, board("global")).await;
    world.publish(generation, EPOCH, 1, &[("a", 1)]).await;
    let page = async |limit: u32| {
        world.get(&format!("/v1/leaderboards/global/entries?limit={limit}"), Some(&game.client)).await
    };
    let calls = || -> u64 {
        let stats: String = redis::cmd("INFO").arg("commandstats").query(&mut world.redis.connection()).unwrap();
        let line = stats.lines().find_map(|line| line.strip_prefix("cmdstat_evalsha:calls=")).unwrap_or("0,");
        line.split(',').next().unwrap().parse().unwrap()
    };
    // The api has connections, and Redis the script.
    futures_util::future::join_all((0..40).map(|_| page(1))).await;
    let before = calls();
    let answers = futures_util::future::join_all((0..40).map(|_| page(2))).await;
    assert!(answers.iter().all(|answer| answer.status == StatusCode::OK && answer.body == answers[0].body));
    // One, and another for each second that this takes.
    assert!(calls() - before < 10, "{} calls for one page", calls() - before);
}

#[tokio::test]
async fn keyed_answers_are_private_and_public_ones_are_not() {
    let world = World::new().await;
    let game = world.game("demo").await;
    let mut public = board("open");
    public["public"] = true.into();
    for spec in [public, board("closed")] {
        let generation = world.board(&game, spec).await;
        let players: Vec<String> = (0..100).map(|i| format!("player-{i}")).collect();
        let scores: Vec<(&str, i64)> = players.iter().map(|p| (p.as_str(), 1)).collect();
        world.publish(generation, EPOCH, 1, &scores).await;
    }
    let keyed = world.get("/v1/leaderboards/open/entries", Some(&game.client)).await;
    assert_eq!(keyed.header("cache-control"), "private, no-cache");
    assert!(keyed.header("vary").contains("authorization"));
    let public = world.get("/v1/public/demo/leaderboards/open/entries", None).await;
    assert_eq!(public.status, StatusCode::OK);
    assert_eq!(public.header("cache-control"), "public, max-age=1, stale-while-revalidate=5");
    assert!(!public.header("vary").contains("authorization"));
    assert_eq!(public.header("x-content-type-options"), "nosniff");
    for path in ["closed", "closed/entries", "closed/entries/player-1", "closed/periods", "none"] {
        let answer = world.get(&format!("/v1/public/demo/leaderboards/{path}"), None).await;
        assert_eq!(answer.code(), "leaderboard_not_found", "{path}");
    }
    let list = world.get("/v1/public/demo/leaderboards", None).await.json();
    assert_eq!(list["leaderboards"].as_array().unwrap().len(), 1);

    // ETag, 304, gzip.
    let etag = public.header("etag").to_owned();
    let path = "/v1/public/demo/leaderboards/open/entries";
    let get = async |headers: &[(&str, &str)]| world.request(Method::GET, path, None, headers, "".into()).await;
    for tag in [etag.as_str(), "*", &format!("\"x\", {etag}")] {
        let known = get(&[("if-none-match", tag)]).await;
        assert_eq!((known.status, known.body.len()), (StatusCode::NOT_MODIFIED, 0), "{tag}");
        assert_eq!(known.header("etag"), etag);
    }
    assert_eq!(get(&[("if-none-match", "W/\"other\"")]).await.status, StatusCode::OK);
    // The moment of reading is no difference.
    let standing = async |tag: &str| {
        let (path, headers) = ("/v1/public/demo/leaderboards/open/entries/player-7", [("if-none-match", tag)]);
        world.request(Method::GET, path, None, &headers, "".into()).await
    };
    let read = standing("").await;
    world.now.fetch_add(1_000_000, Ordering::Relaxed);
    assert_ne!(standing("").await.json()["as_of"], read.json()["as_of"]);
    assert_eq!(standing(read.header("etag")).await.status, StatusCode::NOT_MODIFIED);
    let compressed = get(&[("accept-encoding", "gzip, br")]).await;
    assert_eq!(compressed.header("content-encoding"), "gzip");
    assert_eq!(compressed.body[..2], [0x1f, 0x8b]);
    assert!(compressed.body.len() * 3 < public.body.len());
}

#[tokio::test]
async fn a_board_that_redis_lost_is_never_answered_as_empty() {
    let world = World::new().await;
    let game = world.game("demo").await;
    let generation = world.board(&game, board("global")).await;
    let period = Period { starts_at: EPOCH, ends_at: None };
    let period = periods::ensure(&world.db.pool, generation, &period).await.unwrap();
    world.store(generation, period, &[("a", 3), ("b", 2), ("c", 2)]).await;
    redis::cmd("FLUSHALL").exec(&mut world.redis.connection()).unwrap();
    let base = "/v1/leaderboards/global/entries";
    let get = async |path: &str| world.get(&format!("{base}{path}"), Some(&game.client)).await;
    let page = get("?limit=2").await;
    assert_eq!((page.players(), page.json()["total"].clone()), (vec!["a".into(), "b".into()], json!(3)));
    let next = page.json()["next_cursor"].as_str().unwrap().to_owned();
    assert_eq!(get(&format!("?limit=2&cursor={next}")).await.players(), ["c"]);
    assert_eq!(get("/b").await.json()["entry"]["rank"], 2);
    assert_eq!(get("/c/around?limit=1").await.players(), ["c"]);
    assert_eq!(get("/nobody").await.code(), "no_entry");
    let wanted = json!({"player_ids": ["c", "x"]});
    let friends = world.send(Method::POST, &format!("{base}/lookup"), Some(&game.client), &wanted).await;
    assert_eq!(friends.players(), ["c"]);
    sqlx::query(
        "INSERT INTO leaderboard_entries (period_id, player_id, score, subscore, reached_at, event_id, plays, version)
         SELECT $1, 'many-' || n, n, 0, now(), gen_random_uuid(), 1, n FROM generate_series(1, 1001) n",
    )
    .bind(period.id)
    .execute(&world.db.pool)
    .await
    .unwrap();
    eventually("too many for Postgres to answer", Duration::from_secs(3), || async {
        let answer = get("").await;
        if answer.status == StatusCode::OK {
            return false;
        }
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (StatusCode::SERVICE_UNAVAILABLE, "leaderboard_rebuilding")
        );
        assert!(!answer.header("retry-after").is_empty());
        true
    })
    .await;
}

#[tokio::test]
async fn a_closed_period_is_read_from_its_final_standings_once_redis_has_dropped_it() {
    let world = World::new().await;
    let game = world.game("demo").await;
    let mut weekly = board("weekly");
    weekly["tie_policy"] = "competition".into();
    let (_, last, _) = world.last_week(&game, weekly).await;
    let names = ["a", "b", "c", "d", "e"];
    for (rank, competition, player, score) in
        [(1, 1, "a", 9), (2, 2, "b", 5), (3, 2, "c", 5), (4, 4, "d", 2), (5, 5, "e", 1)]
    {
        sqlx::query(
            "INSERT INTO period_standings (period_id, rank, competition_rank, player_id, score, subscore, reached_at,
                                           plays, metadata)
             VALUES ($1, $2, $3, $4, $5, 0, $6, 3, '{\"car\":\"blue\"}')",
        )
        .bind(last.id)
        .bind(i64::from(rank))
        .bind(i64::from(competition))
        .bind(player)
        .bind(i64::from(score))
        .bind(Micros(i64::from(rank)))
        .execute(&world.db.pool)
        .await
        .unwrap();
    }
    sqlx::query("UPDATE leaderboard_periods SET state = 'closed', entry_count = 5, closed_at = now(), unpublished_at = now() WHERE id = $1")
        .bind(last.id)
        .execute(&world.db.pool)
        .await
        .unwrap();
    let base = "/v1/leaderboards/weekly/entries";
    let get = async |path: &str| world.get(&format!("{base}{path}"), Some(&game.client)).await;
    for which in ["previous".to_owned(), last.id.to_string()] {
        let first = get(&format!("?period={which}&limit=3")).await;
        assert_eq!(
            (first.players(), first.ranks()),
            (names[..3].iter().map(|n| n.to_string()).collect(), vec![1, 2, 2])
        );
        assert_eq!(first.json()["period"]["id"], last.id);
        let next = first.json()["next_cursor"].as_str().unwrap().to_owned();
        let second = get(&format!("?limit=3&cursor={next}")).await;
        assert_eq!(
            (second.players(), second.ranks()),
            (vec!["d".into(), "e".into()], vec![4, 5]),
            "the cursor knows its period"
        );
        let back = second.json()["prev_cursor"].as_str().unwrap().to_owned();
        assert_eq!(get(&format!("?limit=3&cursor={back}")).await.players(), names[..3]);
    }
    let standing = get("/c?period=previous&include=plays,metadata").await.json();
    assert_eq!((&standing["entry"]["rank"], &standing["entry"]["plays"]), (&json!(2), &json!(3)));
    assert_eq!(standing["entry"]["metadata"], json!({"car": "blue"}));
    assert_eq!(get("/e/around?period=previous&limit=3").await.players(), ["c", "d", "e"]);
    assert_eq!(get("?period=current").await.players(), Vec::<String>::new());
    assert_eq!(get("?period=99999").await.code(), "period_not_found");
    let periods = world.get("/v1/leaderboards/weekly/periods", Some(&game.client)).await.json();
    let states: Vec<&Value> = periods["periods"].as_array().unwrap().iter().map(|p| &p["state"]).collect();
    assert_eq!(states, ["open", "closed"]);
    assert_eq!(periods["periods"][1]["entry_count"], 5);
}

#[tokio::test]
async fn the_period_changes_with_the_clock() {
    let world = World::new().await;
    let game = world.game("demo").await;
    let mut daily = board("daily");
    daily["reset"] = "daily".into();
    let generation = world.board(&game, daily).await;
    let today = Micros::from_seconds(1_795_219_200);
    world.publish(generation, today, 1, &[("a", 1)]).await;
    let get = async || world.get("/v1/leaderboards/daily/entries", Some(&game.client)).await;
    let definition = world.get("/v1/leaderboards/daily", Some(&game.client)).await.json();
    assert_eq!(definition["prev_reset"], "2026-11-21T00:00:00Z");
    assert_eq!(definition["next_reset"], "2026-11-22T00:00:00Z");
    assert_eq!((&definition["entry_count"], &definition["status"]), (&json!(1), &json!("live")));
    let first = get().await;
    assert_eq!(first.players(), ["a"]);
    world.now.fetch_add(86_400_000_000, Ordering::Relaxed);
    let second = get().await;
    assert_eq!(second.players(), Vec::<String>::new());
    assert_ne!(first.json()["period"]["id"], second.json()["period"]["id"]);
    assert_eq!(get().await.json()["period"]["starts_at"], "2026-11-22T00:00:00Z");
}
