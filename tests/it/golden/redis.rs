//! Names and contents of keys in Redis: what one version writes there another one finds.

use std::fmt::Write as _;

use scoreline::domain::board::Order;
use scoreline::domain::clock::Micros;
use scoreline::domain::ids::BoardGenerationId;
use scoreline::domain::period::Period;
use scoreline::domain::ranking_key::{Standing, VersionedStanding};
use scoreline::queue::keys::STAMP;
use scoreline::queue::{Keys, Lane};
use scoreline::ranking::{PublishedEntry, Ranking};
use serde_json::json;

use super::{compare, masked};
use crate::ingest::door::{self, CLIENT, SERVER, event};
use crate::support::redis::{TestRedis, redis};

#[test]
fn the_queues_keys_have_the_same_names() {
    let keys = Keys::new("sl", "q0");
    let [high, low] = Lane::ALL;
    let mut found = String::new();
    for (what, name) in [
        ("jobs", keys.jobs()),
        ("lane high", keys.lane(high)),
        ("lane low", keys.lane(low)),
        ("again high", keys.again(high)),
        ("again low", keys.again(low)),
        ("suspect", keys.suspect()),
        ("delayed", keys.delayed()),
        ("aside", keys.aside()),
        ("trouble", keys.trouble()),
        ("troubled at", keys.troubled_at()),
        ("held by w-1", keys.held("w-1")),
        ("workers", keys.workers()),
        ("fetches", keys.fetches()),
        ("alone", keys.alone()),
        ("named", keys.named()),
        ("dead", keys.dead()),
        ("deaths", keys.deaths()),
        ("blocked", keys.blocked()),
        ("paused", keys.paused()),
        ("counters", keys.counters()),
        ("field of counters", STAMP.to_owned()),
        ("shares", keys.shares()),
        ("tag", keys.tag().to_owned()),
        ("wake channel", keys.wake_channel()),
        ("facts channel", keys.facts_channel()),
    ] {
        writeln!(found, "{what}: {name}").unwrap();
    }
    compare("redis/queue-keys.txt", &found);
}

/// Every key with its type and content, whether it expires, and what differs from run to run left out by `mask`.
pub fn dump(redis: &TestRedis, mask: impl Fn(String) -> String) -> String {
    let mut connection = redis.connection();
    let mut names: Vec<Vec<u8>> = ::redis::cmd("KEYS").arg("*").query(&mut connection).unwrap();
    names.sort();
    let text = |bytes: &[u8]| bytes.escape_ascii().to_string();
    let mut found = String::new();
    for name in names {
        let mut ask = |command: &str, more: &[&str]| -> ::redis::Value {
            ::redis::cmd(command).arg(&name).arg(more).query(&mut connection).unwrap()
        };
        let kind: String = ::redis::from_redis_value(ask("TYPE", &[])).unwrap();
        let expires: i64 = ::redis::from_redis_value(ask("PTTL", &[])).unwrap();
        let content = match kind.as_str() {
            "string" => ask("GET", &[]),
            "hash" => ask("HGETALL", &[]),
            "list" => ask("LRANGE", &["0", "-1"]),
            "zset" => ask("ZRANGE", &["0", "-1", "WITHSCORES"]),
            _ => ask("SMEMBERS", &[]),
        };
        let parts: Vec<Vec<u8>> = match kind.as_str() {
            "string" => vec![::redis::from_redis_value(content).unwrap()],
            _ => ::redis::from_redis_value(content).unwrap(),
        };
        let together = if matches!(kind.as_str(), "hash" | "zset") { 2 } else { 1 };
        let mut lines: Vec<String> = parts
            .chunks(together)
            .map(|parts| parts.iter().map(|part| text(part)).collect::<Vec<_>>().join(" → "))
            .collect();
        if matches!(kind.as_str(), "hash" | "set") {
            lines.sort();
        }
        let until = if expires > 0 { ", expires" } else { "" };
        writeln!(found, "{} ({kind}{until})", text(&name)).unwrap();
        lines.iter().for_each(|line| writeln!(found, "    {line}").unwrap());
    }
    mask(found)
}

/// Times and random ids: numbers of more than twelve digits become `<n>`, UUIDs of version 7 `<uuid>`.
fn without_times(text: &str) -> String {
    let number = |digits| (digits > 12).then(|| "<n>".to_owned());
    masked(text, |uuid| uuid.get_version_num() == 7, u8::is_ascii_digit, number)
}

#[tokio::test]
async fn a_batch_leaves_the_same_keys() {
    let redis = redis();
    let demo = door::game(1, "demo", Some(1_000), Some(1_000));
    let door = door::open_with(door::settings(&redis), door::directory(demo)).await;
    let batch = json!([event(1, "game_ended", "p-1"), event(2, "chat", "p-2"), event(3, "chat", "p-2")]);
    let keyed = [("idempotency-key", "the-key-of-a-batch")];
    for key in [CLIENT, SERVER] {
        let answer = door.send(key, &keyed, batch.to_string().as_bytes()).await;
        assert_eq!(answer.status, 202, "{answer:?}");
    }
    let mut connection = redis.connection();
    // The batch's random id and Redis's time stand within these bytes.
    let zeros = |key: &str, field: Option<&str>, from: usize, to: usize, connection: &mut ::redis::Connection| {
        let mut read = ::redis::cmd(if field.is_some() { "HGET" } else { "GET" });
        let mut bytes: Vec<u8> = read.arg(key).arg(field).query(connection).unwrap();
        bytes[from..to].fill(0);
        let mut write = ::redis::cmd(if field.is_some() { "HSET" } else { "SET" });
        write.arg(key).arg(field).arg(bytes);
        if field.is_none() {
            write.arg("KEEPTTL");
        }
        write.exec(connection).unwrap();
    };
    let jobs: Vec<String> = ::redis::cmd("HKEYS").arg("{sl:q0}:jobs").query(&mut connection).unwrap();
    assert_eq!(jobs.len(), 4);
    for job in &jobs {
        zeros("{sl:q0}:jobs", Some(job), 6, 22, &mut connection);
    }
    let receipts: Vec<String> = ::redis::cmd("KEYS").arg("{sl:q0}:idem:*").query(&mut connection).unwrap();
    assert_eq!(receipts.len(), 2);
    for receipt in &receipts {
        zeros(receipt, None, 33, 57, &mut connection);
    }
    // Two-hour slots are numbered by the clock.
    let slots = |text: String| {
        let is_slot = |line: &&str| {
            line.trim_start().split(" → ").next().is_some_and(|it| it.len() == 6 && it.parse::<u64>().is_ok())
        };
        text.lines()
            .map(|line| if is_slot(&line) { "    <slot> → 1".to_owned() } else { line.to_owned() } + "\n")
            .collect()
    };
    compare("redis/batch.txt", &dump(&redis, |text| slots(without_times(&text))));
}

const WEEK: Period = Period { starts_at: Micros(1_000_000), ends_at: Some(Micros(604_801_000_000)) };

fn standing(score: i64) -> Standing {
    Standing { score, subscore: -1, reached_at: Micros(1_800_000_000_000_000 + score) }
}

#[tokio::test]
async fn a_board_lies_in_redis_the_same() {
    let redis = redis();
    let ranking = Ranking::open(&redis.url, "sl").unwrap();
    assert!(ranking.begin_era(None, 5, uuid::Uuid::from_u128(9)).await.unwrap());
    let era = ranking.beacon().await.unwrap().unwrap().era;
    let info: String = ::redis::cmd("INFO").arg("server").query(&mut redis.connection()).unwrap();
    let run_id = info.lines().find_map(|line| line.strip_prefix("run_id:")).unwrap().trim().to_owned();
    let mask = |token: &str| {
        let known = [(run_id.clone(), "<run id>"), (era.clone(), "<era>"), (token.to_owned(), "<token>")];
        move |text: String| {
            known
                .iter()
                .filter(|(known, _)| !known.is_empty())
                .fold(text, |text, (known, name)| text.replace(known, name))
        }
    };
    let board = BoardGenerationId(7);
    let token = ranking.begin_rebuild(board).await.unwrap();
    let entry = |player: &str, score| VersionedStanding {
        player_id: player.to_owned(),
        standing: standing(score),
        version: 40,
    };
    for (period, order) in [(Period::WHOLE, Order::Descending), (WEEK, Order::Ascending)] {
        ranking.write_rebuild(&token, &period, order, &[entry("p-1", 5), entry("p-2", 300)]).await.unwrap();
    }
    // A publication meanwhile goes into the shadow, and so does a removal.
    let published = [
        PublishedEntry { player_id: "p-3", standing: Some(standing(-1)) },
        PublishedEntry { player_id: "p-1", standing: None },
    ];
    ranking.publish(board, &Period::WHOLE, Order::Descending, 41, &published).await.unwrap();
    let name: String = ::redis::cmd("GET").arg("{sl:b3:7}:rebuild").query(&mut redis.connection()).unwrap();
    let mut found = format!("# while it is rebuilt\n{}", dump(&redis, mask(&name)));
    assert_eq!(ranking.finish_rebuild(&token, 42).await.unwrap(), 42);
    write!(found, "\n# when it is ready\n{}", dump(&redis, mask(""))).unwrap();
    let players: Vec<String> = (0..60).map(|n| format!("q-{n:02}")).collect();
    let many: Vec<PublishedEntry<'_>> = (players.iter().zip(0..))
        .map(|(player_id, n)| PublishedEntry { player_id, standing: Some(standing(n * 1_000)) })
        .collect();
    ranking.publish(board, &WEEK, Order::Ascending, 50, &many).await.unwrap();
    ranking.publish(board, &WEEK, Order::Ascending, 51, &published).await.unwrap();
    write!(found, "\n# after publications, a large and a small one\n{}", dump(&redis, mask(""))).unwrap();
    compare("redis/board.txt", &found);
}
