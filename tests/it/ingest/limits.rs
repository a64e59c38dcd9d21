//! Limits per address, player and game (docs/rules.md#limits-pass-all-or-nothing).

use serde_json::{Value, json};

use super::door::{self, CLIENT, Door, SERVER, event, queued};
use crate::support::eventually;
use crate::support::redis::{TestRedis, redis};

/// Events of one player.
pub fn batch(count: u32, player: &str) -> Value {
    json!((0..count).map(|i| event(i, "t", player)).collect::<Vec<_>>())
}

fn calls(redis: &TestRedis) -> u64 {
    let stats: String = ::redis::cmd("INFO").arg("commandstats").query(&mut redis.connection()).unwrap();
    let line = stats.lines().find(|l| l.starts_with("cmdstat_evalsha:")).unwrap_or("cmdstat_evalsha:calls=0,");
    line.split("calls=").nth(1).unwrap().split(',').next().unwrap().parse().unwrap()
}

#[tokio::test]
async fn the_201st_request_within_a_minute_is_refused_and_blocks() {
    let redis = redis();
    let door = door::open(door::settings(&redis)).await;
    for number in 0..200 {
        let answer = door.post(CLIENT, &event(number, "t", "p")).await;
        assert_eq!(answer.status, 202, "{number}: {answer:?}");
        assert!(answer.headers["ratelimit-policy"].contains("\"requests\";q=200;w=60"), "{answer:?}");
        if number == 199 {
            assert!(answer.headers["ratelimit"].starts_with("\"requests\";r=0;t="), "{answer:?}");
        }
    }
    let refused = door.post(CLIENT, &event(201, "t", "p")).await;
    refused.refused(429, "address_limit");
    assert_eq!((&refused.headers["retry-after"], &refused.body["limit"]), (&"60".to_owned(), &json!(200)));
    let ttl = |key: &str| -> i64 { ::redis::cmd("PTTL").arg(key).query(&mut redis.connection()).unwrap() };
    let blocked_for = ttl("{sl:q0}:limit:block:1|127.0.0.1");

    let before = calls(&redis);
    for _ in 0..50 {
        door.post(CLIENT, &event(202, "t", "p")).await.refused(429, "address_limit");
    }
    assert_eq!(calls(&redis), before, "a known block costs no call");
    assert!(ttl("{sl:q0}:limit:block:1|127.0.0.1") <= blocked_for, "refusals do not extend it");
    assert_eq!(door.post(SERVER, &event(203, "t", "p")).await.status, 202, "a server key has no such limit");
    assert_eq!(queued(&redis), 201);

    // Another replica, which knows nothing, refuses too; when both windows have passed it is let in.
    let fresh = door::open(door::settings(&redis)).await;
    // As if half of the block had passed: what it refuses does not extend it either.
    let block = "{sl:q0}:limit:block:1|127.0.0.1";
    let _: i64 = ::redis::cmd("PEXPIRE").arg(block).arg(30_000).query(&mut redis.connection()).unwrap();
    let refused = fresh.post(CLIENT, &event(1, "t", "p")).await;
    refused.refused(429, "address_limit");
    assert_eq!((refused.headers["retry-after"].as_str(), ttl(block) <= 30_000), ("30", true));
    let mut connection = redis.connection();
    let _: () = ::redis::cmd("DEL").arg("{sl:q0}:limit:block:1|127.0.0.1").query(&mut connection).unwrap();
    let _: () = ::redis::cmd("DEL").arg("{sl:q0}:limit:ip:1|127.0.0.1").query(&mut connection).unwrap();
    fresh.pass(61);
    let answer = fresh.post(CLIENT, &event(1, "t", "p")).await;
    assert_eq!(answer.status, 202);
}

#[tokio::test]
async fn requests_that_fail_count_against_their_address_too() {
    let redis = redis();
    let mut settings = door::settings(&redis);
    settings.limits.rate_limit_requests = 5;
    let door = door::open(settings).await;
    for _ in 0..2 {
        door.send(CLIENT, &[], b"not json").await.refused(400, "body_not_json");
        door.send(CLIENT, &[], b"[7]").await.refused(422, "all_events_rejected");
    }
    assert_eq!(door.post(CLIENT, &event(1, "t", "p")).await.status, 202);
    door.post(CLIENT, &event(2, "t", "p")).await.refused(429, "address_limit");
    // Whoever has no key is counted beside those who have.
    for _ in 0..3 {
        door.request("POST", "/v1/events", &[], b"[]").await.refused(401, "key_missing");
    }
    for _ in 0..2 {
        door.request("GET", "/nothing", &[], b"").await.refused(404, "not_found");
    }
    door.request("POST", "/v1/events", &[], b"[]").await.refused(429, "address_limit");
    door.request("GET", "/nothing", &[], b"").await.refused(429, "address_limit");
}

#[tokio::test]
async fn forged_addresses_count_for_the_peer_and_proxies_are_believed() {
    let redis = redis();
    let mut settings = door::settings(&redis);
    settings.limits.rate_limit_requests = 2;
    let door = door::open(settings.clone()).await;
    let good = event(1, "t", "p").to_string();
    for number in 0..3 {
        let forged = format!("198.51.100.{number}");
        let answer = door.send(CLIENT, &[("x-forwarded-for", &forged)], good.as_bytes()).await;
        assert_eq!(answer.status == 429, number == 2, "{answer:?}");
    }
    settings.http.trusted_proxies = vec!["127.0.0.0/8".parse().unwrap()];
    let behind = door::open(settings).await;
    for number in 0..6 {
        let forwarded = format!("203.0.113.1, 198.51.100.{number}");
        let answer = behind.send(CLIENT, &[("x-forwarded-for", &forwarded)], good.as_bytes()).await;
        assert_eq!(answer.status, 202, "{answer:?}");
    }
    for number in 0..3 {
        let forwarded = format!("2001:db8:1:2::{number:x}");
        let answer = behind.send(CLIENT, &[("x-forwarded-for", &forwarded)], good.as_bytes()).await;
        assert_eq!(answer.status == 429, number == 2, "one /64 is one address: {answer:?}");
    }
}

async fn limited(player: u32, game: u32) -> (TestRedis, Door) {
    let redis = redis();
    let mut settings = door::settings(&redis);
    settings.limits.rate_limit_requests = 0;
    let door = door::open_with(settings, door::directory(door::game(1, "demo", Some(player), Some(game)))).await;
    (redis, door)
}

#[tokio::test]
async fn exactly_a_players_limit_passes_and_the_rest_may_retry() {
    for (limit, size) in [(10, 15), (10, 4), (250, 60), (400, 100), (400, 1)] {
        let (redis, door) = limited(limit, 0).await;
        let mut accepted = 0;
        let mut last = None;
        for _ in 0..=limit / size + 1 {
            let answer = door.post(CLIENT, &batch(size, "p")).await;
            accepted += answer.body["accepted"].as_u64().unwrap();
            let all = answer.body["retry"].as_u64().unwrap() == u64::from(size);
            assert_eq!(answer.status, if all { 429 } else { 202 }, "{answer:?}");
            last = Some(answer);
        }
        assert_eq!((accepted, queued(&redis) as u64), (u64::from(limit), u64::from(limit)), "by {size}");
        let last = last.unwrap();
        last.refused(429, "events_over_limit");
        let after: u64 = last.headers["retry-after"].parse().unwrap();
        assert!((1..=120).contains(&after), "{last:?}");
        assert_eq!(last.body["results"][0]["code"], "player_limit");
        assert_eq!(last.body["results"][0]["retry_after"], after);
    }
}

/// Times in Redis are moved instead of waited for.
#[tokio::test]
async fn windows_slide() {
    let redis = redis();
    let mut settings = door::settings(&redis);
    settings.limits.rate_limit_requests = 10;
    let door = door::open_with(settings, door::directory(door::game(1, "demo", Some(10), None))).await;
    let mut connection = redis.connection();
    let (seconds, micros): (i64, i64) = ::redis::cmd("TIME").query(&mut connection).unwrap();
    let now = seconds * 1_000 + micros / 1_000;
    // The player's last minute was full, and half of this one has passed: half of it still counts.
    let quota = ["s".to_owned(), (now - 90_000).to_string(), "c".to_owned(), "10".to_owned()];
    ::redis::cmd("HSET").arg("{sl:q0}:limit:player:1:p").arg(&quota).exec(&mut connection).unwrap();
    door.post(SERVER, &batch(10, "p")).await.counts(5, 0, 0, 5);
    // The address sent 4 requests more than a minute ago, and 6 since.
    let times: Vec<i64> = [61_000; 4].into_iter().chain([50_000; 6]).map(|ago| now - ago).collect();
    ::redis::cmd("RPUSH").arg("{sl:q0}:limit:ip:1|127.0.0.1").arg(times).exec(&mut connection).unwrap();
    for number in 0..5 {
        let answer = door.post(CLIENT, &event(number, "t", "q")).await;
        assert_eq!(answer.status == 202, number < 4, "{number}: {answer:?}");
    }
}

#[tokio::test]
async fn what_a_replica_holds_back_is_not_forgotten_when_redis_takes_nothing() {
    let redis = redis();
    let mut settings = door::settings(&redis);
    settings.limits.rate_limit_requests = 0;
    settings.queue.queue_max_jobs = 19;
    settings.queue.queue_game_share = 100;
    let door = door::open_with(settings, door::directory(door::game(1, "demo", Some(400), None))).await;
    for number in 0..19 {
        door.post(SERVER, &event(number, "t", "p")).await.counts(1, 0, 0, 0);
    }
    // Only now is Redis to hear of the 19, and has no room.
    door.post(SERVER, &event(19, "t", "p")).await.refused(503, "queue_full");
    ::redis::cmd("DEL").arg("{sl:q0}:jobs").arg("{sl:q0}:low").exec(&mut redis.connection()).unwrap();
    let soon = std::time::Duration::from_secs(10);
    eventually("it reopens", soon, async || door.state.admission().closed().is_none()).await;
    for accepted in [100, 100, 100, 81] {
        door.post(SERVER, &batch(100, "p")).await.counts(accepted, 0, 0, 100 - accepted);
    }
}

#[tokio::test]
async fn the_tightest_limit_is_told() {
    let redis = redis();
    let door =
        door::open_with(door::settings(&redis), door::directory(door::game(1, "demo", Some(10), Some(1_000)))).await;
    let told = async |count| door.post(CLIENT, &batch(count, "p")).await.headers["ratelimit"].clone();
    // One of 200 requests, one of 10 events of the player, one of 1,000 of the game.
    let first = told(1).await;
    assert!(first.starts_with("\"player\";r=9;t="), "{first}");
    let mut settings = door::settings(&redis);
    settings.limits.rate_limit_requests = 4;
    let door = door::open_with(settings, door::directory(door::game(1, "demo", Some(1_000), None))).await;
    let other = door.post(CLIENT, &batch(1, "q")).await.headers["ratelimit"].clone();
    assert!(other.starts_with("\"requests\";r="), "{other}");
}

#[tokio::test]
async fn one_players_limit_does_not_cost_another_player() {
    let (redis, door) = limited(10, 0).await;
    door.post(CLIENT, &batch(10, "greedy")).await.counts(10, 0, 0, 0);
    let mixed = json!([event(1, "t", "greedy"), event(2, "t", "modest"), event(3, "game_ended", "modest")]);
    let answer = door.post(CLIENT, &mixed).await;
    assert_eq!(answer.status, 202);
    answer.counts(2, 0, 0, 1);
    assert_eq!(answer.body["results"][0]["status"], "retry");
    assert!(answer.headers.contains_key("retry-after"));
    assert_eq!(queued(&redis), 12);
}

#[tokio::test]
async fn a_games_quota_holds_for_server_keys_too() {
    let (redis, door) = limited(0, 50).await;
    for player in 0..5 {
        door.post(SERVER, &batch(9, &format!("p-{player}"))).await.counts(9, 0, 0, 0);
    }
    let answer = door.post(SERVER, &batch(9, "p-9")).await;
    answer.counts(5, 0, 0, 4);
    assert_eq!(answer.body["results"][0]["code"], "game_limit");
    door.post(SERVER, &batch(1, "p-9")).await.refused(429, "events_over_limit");
    assert_eq!(queued(&redis), 50);
}

#[tokio::test]
async fn players_far_below_their_limit_cost_redis_nothing() {
    let (redis, door) = limited(6_000, 0).await;
    for player in 0..20 {
        door.post(SERVER, &batch(10, &format!("p-{player}"))).await.counts(10, 0, 0, 0);
    }
    let keys: Vec<String> = ::redis::cmd("KEYS").arg("*limit:player*").query(&mut redis.connection()).unwrap();
    assert_eq!(keys, Vec::<String>::new());
}

#[tokio::test]
async fn limits_hold_across_replicas_within_the_documented_slack() {
    let redis = redis();
    let mut settings = door::settings(&redis);
    settings.limits.rate_limit_requests = 0;
    let demo = || door::directory(door::game(1, "demo", Some(1_000), None));
    let doors = [door::open_with(settings.clone(), demo()).await, door::open_with(settings, demo()).await];
    let mut accepted = 0;
    for round in 0..120 {
        let answer = doors[round % 2].post(CLIENT, &batch(10, "p")).await;
        accepted += answer.body["accepted"].as_u64().unwrap();
    }
    assert!((1_000..=1_100).contains(&accepted), "{accepted}: two replicas hold back at most 50 each");
}

#[tokio::test]
async fn limits_with_a_redis_of_their_own_are_counted_there() {
    let (queue, limits) = (redis(), redis());
    let mut settings = door::settings(&queue);
    settings.redis.redis_limits_url = Some(limits.url.clone().into());
    settings.limits.rate_limit_requests = 3;
    let door = door::open_with(settings, door::directory(door::game(1, "demo", Some(10), None))).await;
    door.post(CLIENT, &batch(6, "p")).await.counts(6, 0, 0, 0);
    door.post(CLIENT, &batch(6, "p")).await.counts(4, 0, 0, 2);
    door.post(CLIENT, &batch(6, "p")).await.refused(429, "events_over_limit");
    door.post(CLIENT, &batch(6, "p")).await.refused(429, "address_limit");
    assert_eq!(queued(&queue), 10);
    let keys: Vec<String> = ::redis::cmd("KEYS").arg("*").query(&mut limits.connection()).unwrap();
    assert!(keys.contains(&"{sl:g:1}:limit:player:1:p".to_owned()), "{keys:?}");
    assert!(keys.contains(&"{sl:a:127.0.0.1}:limit:block:1|127.0.0.1".to_owned()), "{keys:?}");
    let keys: Vec<String> = ::redis::cmd("KEYS").arg("*limit*").query(&mut queue.connection()).unwrap();
    assert_eq!(keys, Vec::<String>::new());
}

#[tokio::test]
async fn while_redis_is_away_a_local_limiter_refuses_and_the_rest_is_503() {
    let mut redis = redis();
    let mut settings = door::settings(&redis);
    settings.limits.rate_limit_requests = 5;
    let door = door::open(settings).await;
    redis.kill();
    for _ in 0..5 {
        let answer = door.post(CLIENT, &event(1, "t", "p")).await;
        answer.refused(503, "queue_unreachable");
        assert!(answer.headers.contains_key("retry-after"));
    }
    door.post(CLIENT, &event(1, "t", "p")).await.refused(429, "address_limit");
    door.post(SERVER, &event(1, "t", "p")).await.refused(503, "queue_unreachable");
    redis.start();
    eventually("ingest accepts again", std::time::Duration::from_secs(5), async || {
        door.post(SERVER, &event(1, "t", "p")).await.status == 202
    })
    .await;
}
