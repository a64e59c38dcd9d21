//! Who is calling: forged headers, and a million addresses.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv6Addr};

use scoreline::domain::ids::GameId;
use scoreline::http::client_address::ClientAddress;
use scoreline::ingest::DoorSettings;
use scoreline::ingest::limits::{Limits, Sender};
use scoreline::queue::enqueue::{AddressCount, EnqueueReply, EnqueueRequest, Enqueuer};
use scoreline::runtime::lifecycle::Lifecycle;
use serde_json::json;
use uuid::Uuid;

use crate::ingest::door::{self, CLIENT, Door, NOW, defaults, event};
use crate::support::redis::{TestRedis, redis};

/// The addresses that Redis counts, each with its time to live in ms.
fn counted(redis: &TestRedis) -> Vec<(String, i64)> {
    let mut connection = redis.connection();
    let keys: Vec<String> = ::redis::cmd("KEYS").arg("{sl:q0}:limit:*").query(&mut connection).unwrap();
    let ttl = |key: &String| ::redis::cmd("PTTL").arg(key).query(&mut connection).unwrap();
    let ttls: Vec<i64> = keys.iter().map(ttl).collect();
    let names = keys.iter().map(|key| key.trim_start_matches("{sl:q0}:limit:").to_owned());
    names.zip(ttls).collect()
}

async fn behind(redis: &TestRedis, trusted: &[&str], change: impl FnOnce(&mut DoorSettings)) -> Door {
    let mut settings = door::settings(redis);
    settings.http.trusted_proxies = trusted.iter().map(|net| net.parse().unwrap()).collect();
    change(&mut settings);
    door::open(settings).await
}

/// Headers by which proxies tell an address, most of them of other people's proxies.
const TELLING: [&str; 8] = [
    "x-forwarded-for",
    "forwarded",
    "x-real-ip",
    "true-client-ip",
    "cf-connecting-ip",
    "x-client-ip",
    "x-cluster-client-ip",
    "client-ip",
];

#[tokio::test]
async fn an_untrusted_peers_headers_count_for_nothing() {
    let redis = redis();
    // Somebody is trusted, but not who is calling.
    let door = behind(&redis, &["10.0.0.0/8", "fd00::/8"], |_| ()).await;
    let good = event(1, "t", "p").to_string();
    for name in TELLING {
        for value in ["198.51.100.7", "for=198.51.100.7", "10.0.0.1, 198.51.100.7", "2001:db8::1", "127.0.0.2"] {
            assert_eq!(door.send(CLIENT, &[(name, value)], good.as_bytes()).await.status, 202);
        }
    }
    let addresses: Vec<String> = counted(&redis).into_iter().map(|(name, _)| name).collect();
    assert_eq!(addresses, ["ip:1|127.0.0.1"]);
}

#[tokio::test]
async fn a_trusted_proxys_header_is_read_from_the_right_and_nothing_else_is() {
    let redis = redis();
    let door = behind(&redis, &["127.0.0.0/8", "10.0.0.0/8", "fd00::/8"], |_| ()).await;
    let good = event(1, "t", "p").to_string();
    let none = "127.0.0.1";
    for (headers, expected) in [
        (vec![("x-forwarded-for", "198.51.100.1")], "198.51.100.1"),
        (vec![("x-forwarded-for", "1.1.1.1, 198.51.100.2")], "198.51.100.2"),
        (vec![("x-forwarded-for", "1.1.1.1, 198.51.100.3, 10.1.2.3")], "198.51.100.3"),
        (vec![("x-forwarded-for", "1.1.1.1"), ("x-forwarded-for", "198.51.100.4")], "198.51.100.4"),
        (vec![("x-forwarded-for", "198.51.100.5:4711")], "198.51.100.5"),
        (vec![("x-forwarded-for", "::ffff:198.51.100.6")], "198.51.100.6"),
        (vec![("x-forwarded-for", "[2001:db8:a:b::1]:443")], "2001:db8:a:b::/64"),
        (vec![("x-forwarded-for", "2001:db8:a:c:1:2:3:4, fd00::7")], "2001:db8:a:c::/64"),
        (vec![("X-FORWARDED-FOR", "198.51.100.8")], "198.51.100.8"),
        (vec![("x-forwarded-for", "")], none),
        (vec![("x-forwarded-for", "unknown")], none),
        (vec![("x-forwarded-for", "198.51.100.9, ")], none),
        (vec![("x-forwarded-for", "198.51.100.9, junk")], none),
        (vec![("x-forwarded-for", "198.51.100.9 10.0.0.1")], none),
        (vec![("x-forwarded-for", "198.51.100.256")], none),
        (vec![("x-forwarded-for", "0x7f000001")], none),
        (vec![("x-forwarded-for", "2130706433")], none),
        (vec![("x-forwarded-for", "fe80::1%eth0")], none),
        (vec![("x-forwarded-for", "a:{b}*:\t:c")], none),
        (vec![("forwarded", "for=198.51.100.9")], none),
        (vec![("x-real-ip", "198.51.100.9")], none),
        (vec![], none),
    ] {
        ::redis::cmd("FLUSHALL").exec(&mut redis.connection()).unwrap();
        let answer = door.send(CLIENT, &headers, good.as_bytes()).await;
        assert_eq!(answer.status, 202, "{headers:?}: {answer:?}");
        let addresses: Vec<String> = counted(&redis).into_iter().map(|(name, _)| name).collect();
        assert_eq!(addresses, [format!("ip:1|{expected}")], "{headers:?}");
    }
    // As many hops as fit: the first untrusted one from the right is found, or the request is refused.
    let hops = format!("198.51.100.9, {}", vec!["10.0.0.1"; 2_000].join(","));
    ::redis::cmd("FLUSHALL").exec(&mut redis.connection()).unwrap();
    assert_eq!(door.send(CLIENT, &[("x-forwarded-for", &hops)], good.as_bytes()).await.status, 202);
    assert_eq!(counted(&redis)[0].0, "ip:1|198.51.100.9");
}

#[tokio::test]
async fn a_flood_from_many_addresses_does_not_fill_redis() {
    const MOST: u32 = 200;
    let redis = redis();
    let door = behind(&redis, &["127.0.0.0/8"], |settings| {
        settings.limits.rate_limit_addresses = MOST;
        settings.limits.rate_limit_requests = 3;
    })
    .await;
    let good = event(1, "t", "p").to_string();
    let from = async |address: u32, key: &str| {
        let address = format!("2001:db8:{:x}:{:x}::1", address >> 16, address & 0xffff);
        door.send(key, &[("x-forwarded-for", &address)], good.as_bytes()).await.status
    };
    for address in 0..1_000 {
        // Whoever has no key costs no more.
        let (key, expected) = if address % 2 == 0 { (CLIENT, 202) } else { ("wrong", 401) };
        assert_eq!(from(address, key).await, expected);
    }
    let keys = counted(&redis);
    let addresses = keys.iter().filter(|(name, _)| !name.starts_with("player:")).count();
    assert!((MOST as usize..MOST as usize + 10).contains(&addresses), "{addresses} keys");
    assert!(keys.iter().all(|(_, ttl)| (1..=120_000).contains(ttl)), "each key has a time to live: {keys:?}");
    // Each of them still has its limit, counted in the process now.
    let statuses = [from(900, CLIENT).await, from(900, CLIENT).await, from(900, CLIENT).await];
    assert_eq!(statuses, [202, 202, 429]);
    // A minute later Redis counts again.
    door.pass(60);
    assert_eq!(from(2_000, CLIENT).await, 202);
    assert!(counted(&redis).iter().any(|(name, _)| name == "ip:1|2001:db8:0:7d0::/64"), "{:?}", counted(&redis));
}

#[tokio::test]
async fn a_flood_that_repeats_one_keyed_request_does_not_fill_redis() {
    const MOST: u32 = 50;
    for (apart, distinct_keys) in [(false, false), (true, false), (true, true)] {
        let (queue, limits) = (redis(), redis());
        let door = behind(&queue, &["127.0.0.0/8"], |settings| {
            settings.limits.rate_limit_addresses = MOST;
            settings.ingest.max_idempotency_keys = 1;
            settings.redis.redis_limits_url = apart.then(|| limits.url.clone().into());
        })
        .await;
        let good = event(1, "t", "p").to_string();
        for number in 0..300 {
            let address = format!("2001:db8:0:{number:x}::1");
            let key = format!("sent-again-and-again-{}", if distinct_keys { number } else { 0 });
            let headers = [("x-forwarded-for", address.as_str()), ("idempotency-key", &key)];
            // Nothing but the first is queued: the others are repeats, or find as many receipts as there may be.
            let expected = if distinct_keys && number > 0 { 503 } else { 202 };
            assert_eq!(door.send(CLIENT, &headers, good.as_bytes()).await.status, expected, "{number}");
        }
        let at = if apart { &limits } else { &queue };
        let keys = ::redis::cmd("KEYS").arg("*:limit*:ip:*").query::<Vec<String>>(&mut at.connection()).unwrap().len();
        assert_eq!(keys, MOST as usize, "apart: {apart}, distinct keys: {distinct_keys}");
    }
}

#[tokio::test]
async fn an_address_that_was_counted_is_told_of_when_the_queue_is_full() {
    let (queue, limits) = (redis(), redis());
    let lifecycle = Lifecycle::default();
    let enqueuer = Enqueuer::connect(&queue.url, Some(&limits.url), "sl", 1, &lifecycle).await.unwrap();
    let mut answers = Vec::new();
    for address in ["192.0.2.1", "192.0.2.2"] {
        let request = EnqueueRequest {
            game: GameId(1),
            batch_id: Uuid::nil(),
            queued_before: 0,
            address: Some(AddressCount { address, game: None, limit: 3, block_ms: 1_000 }),
            quotas: &[],
            high: b"job",
            low: &[],
            share_percent: 100,
            remember: None,
        };
        answers.push(enqueuer.enqueue(&request).await);
    }
    lifecycle.soft.cancel();
    lifecycle.hard.cancel();
    assert!(matches!(answers[1].reply, Ok(EnqueueReply::QueueFull(1))), "{answers:?}");
    assert!(answers.iter().all(|answer| answer.address.is_some_and(|left| left.amount == 2)), "{answers:?}");
}

#[test]
fn a_million_addresses_take_bounded_memory_in_ingest() {
    let limits = Limits::new(defaults());
    let (now_ms, before) = (NOW * 1_000, resident_kb());
    let sender = |n: u32| Sender {
        game: Some(GameId(1)),
        address: ClientAddress::from(IpAddr::from(Ipv6Addr::from_bits(u128::from(n) << 64))),
    };
    for n in 0..1_000_000 {
        assert!(limits.refused_locally(sender(n), now_ms).is_none(), "nobody is refused for others");
        limits.counted(199, now_ms);
        if n % 2 == 0 {
            limits.deny(sender(n), 60_000, now_ms);
        }
    }
    assert!(!limits.asks_redis(now_ms), "Redis is asked about no more of them");
    let grown = resident_kb().saturating_sub(before);
    assert!(grown < 64 * 1_024, "{grown} KiB for two tables of 100,000 addresses");
    assert!(limits.asks_redis(now_ms + 60_000));
    let blocked: BTreeSet<bool> = (0..1_000).map(|n| limits.denied(sender(n), now_ms).is_some()).collect();
    assert_eq!(blocked.len(), 2, "who was blocked first stays blocked");
}

fn resident_kb() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[tokio::test]
async fn names_that_look_like_keys_stay_within_their_own_key() {
    let redis = redis();
    let mut settings = door::settings(&redis);
    settings.limits.rate_limit_requests = 0;
    // Few enough that each player is counted in Redis.
    let door = door::open_with(settings, door::directory(door::game(1, "demo", Some(10), None))).await;
    let hostile = ["a:b", "2:p", "1:p", "limit:block:127.0.0.1", "p|x", "q0:jobs", "../..", "p/~=+@", ":", "sl:q0"];
    for player in hostile {
        assert_eq!(door.post(CLIENT, &event(1, "t", player)).await.status, 202, "{player}");
        let headers = [("idempotency-key", format!("{player}:0123456789abcdef"))];
        let headers = headers.each_ref().map(|(name, value)| (*name, value.as_str()));
        let body = event(2, "t", player).to_string();
        assert_eq!(door.send(CLIENT, &headers, body.as_bytes()).await.status, 202, "{player}");
    }
    for player in ["{sl:q0}:jobs", "a\r\nDEL x", "a*", "a b", "a\0b", "é", "a\"b", "a'b", "<b>", "%0d%0a"] {
        door.post(CLIENT, &event(1, "t", player)).await.refused(422, "all_events_rejected");
        let headers = [("idempotency-key", format!("{player}0123456789abcdef"))];
        if player.chars().all(|c| (' '..='~').contains(&c)) {
            let headers = headers.each_ref().map(|(name, value)| (*name, value.as_str()));
            let answer =
                door.send(CLIENT, &headers, json!({"type": "t", "player_id": "p"}).to_string().as_bytes()).await;
            answer.refused(400, "idempotency_key_invalid");
        }
    }
    let keys: BTreeSet<String> = ::redis::cmd("KEYS").arg("*").query(&mut redis.connection()).unwrap();
    let mut expected: BTreeSet<String> = ["jobs", "low", "counters", "shares", "idemuse", "idemuse:1:client"]
        .map(|name| format!("{{sl:q0}}:{name}"))
        .into();
    for player in hostile {
        expected.insert(format!("{{sl:q0}}:limit:player:1:{player}"));
        expected.insert(format!("{{sl:q0}}:idem:1:1:{player}:0123456789abcdef"));
    }
    assert_eq!(keys, expected);
}
