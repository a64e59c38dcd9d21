//! Publications of many entries go another way than those of few (`src/ranking/publish_many.rs`), and must not show it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use scoreline::domain::board::Order;
use scoreline::domain::clock::Micros;
use scoreline::domain::ids::BoardGenerationId;
use scoreline::domain::period::Period;
use scoreline::domain::ranking_key::{Standing, VersionedStanding, encode};
use scoreline::ranking::{BoardStatus, PublishOutcome, PublishedEntry, Ranking, ReadError};
use serde_json::json;

use super::arena::Arena;

const PLAYERS: usize = 1_500;

fn players() -> Vec<String> {
    (0..PLAYERS).map(|n| format!("p-{n}")).collect()
}

fn published(changes: &[(String, Standing)]) -> Vec<PublishedEntry<'_>> {
    changes.iter().map(|(player_id, standing)| PublishedEntry { player_id, standing: Some(*standing) }).collect()
}

/// Some hundred players and where they stand now, differing by the seed: few scores, so that places repeat.
fn changes(players: &[String], seed: u64, count: usize) -> Vec<(String, Standing)> {
    let mut random = SmallRng::seed_from_u64(seed);
    let first = random.random_range(0..players.len());
    let standing = |n: usize, random: &mut SmallRng| {
        let score = [i64::MIN, -1, 0, 1, (1 << 53) + 1, i64::MAX][random.random_range(0..6)];
        (players[(first + n) % players.len()].clone(), Standing { score, subscore: 0, reached_at: Micros(0) })
    };
    (0..count).map(|n| standing(n, &mut random)).collect()
}

/// How often the server ran a command.
fn calls(arena: &Arena, command: &str) -> u64 {
    let stats: String = redis::cmd("INFO").arg("commandstats").query(&mut arena.redis.connection()).unwrap();
    let line = stats.lines().find_map(|line| line.strip_prefix(&format!("cmdstat_{command}:calls=")));
    line.map_or(0, |rest| rest.split(',').next().unwrap().parse().unwrap())
}

/// What Redis holds of a board, under names that are the same for every board.
fn state(arena: &Arena, board: BoardGenerationId) -> BTreeMap<String, Vec<String>> {
    arena
        .redis_state(board)
        .into_iter()
        .map(|(key, value)| (key.rsplit_once("}:").unwrap().1.to_owned(), value))
        .collect()
}

#[tokio::test]
async fn many_entries_leave_what_few_at_a_time_would() {
    let arena = Arena::new().await;
    let players = players();
    for order in ["asc", "desc"] {
        let at_once = arena.board(&format!("{order}-at-once"), json!({"order": order})).await;
        let by_few = arena.board(&format!("{order}-by-few"), json!({"order": order})).await;
        let period = arena.whole(at_once).period;
        let order = arena.whole(at_once).order;
        for board in [at_once, by_few] {
            arena.rebuild(board).await;
        }
        // Newer ones, the same again, an older one (whose players were partly published since), one digit more.
        for (round, version) in [3, 8, 8, 5, 9, 10, 100, 99].into_iter().enumerate() {
            let changes = changes(&players, version as u64, 700 + 7 * version as usize);
            let (scripts, before) = (calls(&arena, "evalsha"), arena.ranking.version(at_once).await.unwrap());
            let outcome = arena.ranking.publish(at_once, &period, order, version, &published(&changes)).await.unwrap();
            assert_eq!(outcome, PublishOutcome::Live);
            assert_eq!(calls(&arena, "evalsha"), scripts, "many entries need no script");
            let moved = arena.ranking.version(at_once).await.unwrap() > before;
            assert_eq!(moved, round != 2, "round {round}: what repeats itself changes nothing and is no news");
            for few in published(&changes).chunks(40) {
                arena.ranking.publish(by_few, &period, order, version, few).await.unwrap();
            }
            assert!(calls(&arena, "evalsha") > scripts);
            assert_eq!(state(&arena, at_once), state(&arena, by_few), "round {round}");
        }
    }
}

#[tokio::test]
async fn many_entries_are_announced_with_the_version_that_a_reader_finds() {
    let arena = Arena::new().await;
    let board = arena.board("b", json!({})).await;
    arena.rebuild(board).await;
    let mut connection = arena.redis.connection();
    let mut heard = connection.as_pubsub();
    heard.subscribe("sl:boards").unwrap();
    heard.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let changes = changes(&players(), 1, PLAYERS);
    let before = arena.ranking.version(board).await.unwrap().unwrap();
    arena.ranking.publish(board, &Period::WHOLE, Order::Descending, 1, &published(&changes)).await.unwrap();
    let after = arena.ranking.version(board).await.unwrap().unwrap();
    for version in before + 1..=after {
        let message: String = heard.get_message().unwrap().get_payload().unwrap();
        assert_eq!(message, format!("{board} {version}"));
    }
    assert!(after > before);
}

#[tokio::test]
async fn many_entries_for_a_board_that_is_not_there_or_being_rebuilt_go_where_few_would() {
    let arena = Arena::new().await;
    let board = arena.board("b", json!({})).await;
    let order = arena.whole(board).order;
    let first = changes(&players(), 1, PLAYERS);
    let first = published(&first);
    let publish = |version| arena.ranking.publish(board, &Period::WHOLE, order, version, &first);
    assert_eq!(publish(1).await.unwrap(), PublishOutcome::NotReady);
    assert!(arena.redis_state(board).is_empty());
    let token = arena.ranking.begin_rebuild(board).await.unwrap();
    assert_eq!(publish(2).await.unwrap(), PublishOutcome::Shadow);
    arena.ranking.finish_rebuild(&token, 1).await.unwrap();
    let token = arena.ranking.begin_rebuild(board).await.unwrap();
    assert_eq!(publish(3).await.unwrap(), PublishOutcome::Live);
    // What was published meanwhile is all that the swap has.
    arena.ranking.finish_rebuild(&token, 1).await.unwrap();
    let state = state(&arena, board);
    assert_eq!(state["p:0..:rank"].len(), PLAYERS * 2);
    assert!(state["p:0..:member"].iter().all(|value| value.contains("=3:")));
}

#[tokio::test]
async fn writers_and_rebuilds_beside_each_other_leave_a_whole_board() {
    let arena = Arena::new().await;
    let board = arena.board("b", json!({})).await;
    arena.rebuild(board).await;
    let players = players();
    // Stands for Postgres: what was committed, with its version.
    let committed: Mutex<BTreeMap<String, (i64, Standing)>> = Mutex::default();
    let (version, rebuilt) = (AtomicI64::new(1), AtomicBool::new(false));
    let lock = || committed.lock().unwrap_or_else(PoisonError::into_inner);
    let write = async |seed: u64, count: usize| {
        let (ranking, mut redis) = (Ranking::open(&arena.redis.url, "sl").unwrap(), arena.redis.connection());
        // On beyond the last swap, which would mend what went wrong before it.
        let mut beyond = 0;
        for round in 0.. {
            beyond += u32::from(rebuilt.load(Ordering::Relaxed));
            if beyond == 25 {
                break;
            }
            let changes = changes(&players, seed * 1_000 + round, count);
            let version = {
                let mut committed = lock();
                let version = version.fetch_add(1, Ordering::Relaxed);
                for (player, standing) in &changes {
                    committed.insert(player.clone(), (version, *standing));
                }
                version
            };
            ranking.publish(board, &Period::WHOLE, Order::Descending, version, &published(&changes)).await.unwrap();
            let players = changes.iter().map(|(player, _)| player);
            let held: Vec<String> = redis::cmd("HMGET")
                .arg(format!("{{sl:b3:{board}}}:p:0..:member"))
                .arg(players.collect::<Vec<_>>())
                .query::<Vec<Vec<u8>>>(&mut redis)
                .unwrap()
                .iter()
                .map(|value| value.escape_ascii().to_string())
                .collect();
            let missed = held.iter().find(|v| v.split_once(':').unwrap().0.parse::<i64>().unwrap() < version);
            assert_eq!(missed, None, "{version} was said to be published");
        }
    };
    let rebuild = async {
        for _ in 0..4 {
            let token = arena.ranking.begin_rebuild(board).await.unwrap();
            let read: Vec<VersionedStanding> = lock()
                .iter()
                .map(|(player_id, (version, standing))| VersionedStanding {
                    player_id: player_id.clone(),
                    standing: *standing,
                    version: *version,
                })
                .collect();
            arena.ranking.write_rebuild(&token, &Period::WHOLE, Order::Descending, &read).await.unwrap();
            arena.ranking.finish_rebuild(&token, 1).await.unwrap();
        }
        rebuilt.store(true, Ordering::Relaxed);
    };
    tokio::join!(write(1, 700), write(2, 1_100), write(3, 40), rebuild);

    let mut members = Vec::new();
    let mut values = Vec::new();
    for (player, (version, standing)) in lock().iter() {
        let key = encode(standing, player, Order::Descending);
        let place = &key[..key.len() - player.len()];
        values.push([format!("{player}={version}:").as_bytes(), place].concat().escape_ascii().to_string());
        members.push(key);
    }
    members.sort();
    values.sort();
    let state = state(&arena, board);
    let ranked: Vec<&String> = state["p:0..:rank"].iter().step_by(2).collect();
    assert_eq!(
        ranked,
        members.iter().map(|m| m.escape_ascii().to_string()).collect::<Vec<_>>().iter().collect::<Vec<_>>()
    );
    assert_eq!(state["p:0..:member"], values);
    assert!(calls(&arena, "exec") > 0);
}

#[tokio::test]
async fn a_board_beside_whose_players_someone_else_wrote_is_doubted() {
    let arena = Arena::new().await;
    let board = arena.board("b", json!({})).await;
    let changes = changes(&players(), 1, PLAYERS);
    let publish = async |version: i64, count: usize| {
        let moved = |(player, standing): &(String, Standing)| {
            (player.clone(), Standing { reached_at: Micros(version), ..*standing })
        };
        let changes: Vec<_> = changes[..count].iter().map(moved).collect();
        let published = published(&changes);
        arena.ranking.publish(board, &Period::WHOLE, Order::Descending, version, &published).await.unwrap()
    };
    for (version, count) in [(1, PLAYERS), (11, 3)] {
        arena.rebuild(board).await;
        publish(version, PLAYERS).await;
        redis::cmd("HSET")
            .arg(format!("{{sl:b3:{board}}}:p:0..:member"))
            .arg(&changes[1].0)
            .arg("nonsense")
            .exec(&mut arena.redis.connection())
            .unwrap();
        // What was there is lost: it is replaced, and its old place stays behind.
        publish(version + 1, count).await;
        let found = arena.ranking.standing(&arena.whole(board), &changes[1].0).await;
        assert!(matches!(found, Err(ReadError::Damaged)), "{found:?}");
        assert_eq!(publish(version + 2, count).await, PublishOutcome::NotReady);
        assert_eq!(arena.ranking.status(&[board]).await.unwrap(), [BoardStatus::Doubtful]);
    }
}

#[tokio::test]
async fn many_entries_are_published_where_redis_refuses_the_short_way() {
    let arena = Arena::new().await;
    let board = arena.board("b", json!({})).await;
    arena.rebuild(board).await;
    let players = players();
    // How often the version moves when the script alone writes.
    let mut by_script = None;
    let memory_full = ["CONFIG", "SET", "maxmemory", "1"];
    for (version, refusal) in
        [(1, &["ACL", "SETUSER", "default", "-watch"][..]), (2, &["ACL", "SETUSER", "default", "+watch", "-multi"])]
            .into_iter()
            .chain([(3, &["ACL", "SETUSER", "default", "+multi"][..]), (4, &memory_full)])
    {
        redis::cmd(refusal[0]).arg(&refusal[1..]).exec(&mut arena.redis.connection()).unwrap();
        let changes = changes(&players, version, PLAYERS);
        let (scripts, whole) = (calls(&arena, "evalsha"), arena.whole(board));
        let before = arena.ranking.version(board).await.unwrap().unwrap();
        let outcome =
            arena.ranking.publish(board, &Period::WHOLE, whole.order, version as i64, &published(&changes)).await;
        assert_eq!(outcome.unwrap(), PublishOutcome::Live, "{refusal:?}");
        assert_eq!(calls(&arena, "evalsha") > scripts, version != 3, "{refusal:?}");
        if version != 3 {
            let steps = arena.ranking.version(board).await.unwrap().unwrap() - before;
            assert_eq!(*by_script.get_or_insert(steps), steps, "{refusal:?}: something was written without a guard");
        }
        let state = state(&arena, board);
        assert_eq!(state["p:0..:rank"].len(), 2 * PLAYERS, "{refusal:?}");
        assert!(state["p:0..:member"].iter().all(|value| value.contains(&format!("={version}:"))), "{refusal:?}");
    }
}

/// Of two calls under way the first may be refused where the second is not: it frees the memory that it takes.
#[tokio::test]
async fn a_board_that_lacks_a_part_of_a_fold_does_not_have_its_version() {
    for moving in [1, 300] {
        let arena = Arena::new().await;
        let board = arena.board("b", json!({})).await;
        arena.rebuild(board).await;
        let mut connection = arena.redis.connection();
        let mut heard = connection.as_pubsub();
        heard.subscribe("sl:boards").unwrap();
        heard.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let maxmemory = |bytes: u32| {
            redis::cmd("CONFIG").arg(&["SET", "maxmemory"]).arg(bytes).exec(&mut arena.redis.connection()).unwrap();
        };
        let standing = |score| Standing { score, subscore: 0, reached_at: Micros(0) };
        let players = players();
        // Who is new stands first, in a call of its own.
        let fold = |score| {
            let players = if score == 1 { &players[250..250 + moving] } else { &players[..250 + moving] };
            players.iter().map(move |player| (player.clone(), standing(score))).collect::<Vec<_>>()
        };
        let version = async || arena.ranking.version(board).await.unwrap().unwrap();
        let first = version().await + 1_000_000;
        let publish = async |version: i64, fold: &[(String, Standing)]| {
            arena.ranking.publish(board, &Period::WHOLE, Order::Descending, version, &published(fold)).await
        };
        publish(first, &fold(1)).await.unwrap();
        maxmemory(1);
        let second = first + 1_000_000;
        let refused = publish(second, &fold(2)).await;
        assert!(refused.is_err(), "{refused:?}");
        let now = version().await;
        assert!(now < second, "it lacks who is new");
        assert_eq!(now > first, moving > 250, "a call behind the first was not refused, unless it is the last");
        // As soon as there is room it is published again.
        maxmemory(0);
        publish(second, &fold(2)).await.unwrap();
        assert_eq!(state(&arena, board)["p:0..:rank"].len(), 2 * (250 + moving));
        assert_eq!(version().await, second);
        let mut announced = Vec::new();
        while announced.last() != Some(&second) {
            let message: String = heard.get_message().unwrap().get_payload().unwrap();
            announced.push(message.split_once(' ').unwrap().1.parse::<i64>().unwrap());
        }
        assert!(announced.is_sorted_by(|a, b| a < b), "{announced:?}");
    }
}
