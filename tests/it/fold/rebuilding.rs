//! Boards in Redis are disposable (ARCHITECTURE.md#invariants), and publications are never lost
//! (docs/rules.md#publications-can-be-repeated).

use std::time::Duration;

use scoreline::aggregator::rebuild::check_boards;
use scoreline::domain::board::Order;
use scoreline::domain::clock::Micros;
use scoreline::domain::period::Period;
use scoreline::domain::ranking_key::{Standing, VersionedStanding};
use scoreline::ranking::{BoardStatus, PublishOutcome, PublishedEntry, Ranking, RebuildError, Still};
use scoreline::services::board_rebuild::rebuild_board;
use serde_json::json;

use super::arena::{Arena, play, seconds, stop};
use crate::support::eventually;
use crate::support::proxy::Proxy;

fn standing(score: i64) -> Standing {
    Standing { score, subscore: 0, reached_at: seconds(0) }
}

fn entry(player_id: &str, score: i64) -> PublishedEntry<'_> {
    PublishedEntry { player_id, standing: Some(standing(score)) }
}

#[tokio::test]
async fn a_publication_of_many_calls_arrives_whole() {
    let arena = Arena::new().await;
    let board = arena.board("b", json!({})).await;
    arena.rebuild(board).await;
    let players: Vec<String> = (0..1_100).map(|n| format!("p-{n}")).collect();
    for round in 0..3 {
        let plays: Vec<_> = players.iter().enumerate().map(|(n, p)| play(p, n as i64 + round, round)).collect();
        // At last by the script alone, and into a shadow that gets nothing else.
        let token = if round == 2 { Some(arena.ranking.begin_rebuild(board).await.unwrap()) } else { None };
        arena.score(board, &plays).await;
        if let Some(token) = token {
            arena.ranking.finish_rebuild(&token, 1).await.unwrap();
        }
        let published = arena.redis_state(board);
        arena.rebuild(board).await;
        assert_eq!(arena.redis_state(board), published, "round {round}");
        assert!(published.values().any(|values| values.len() == players.len()), "round {round}");
    }
}

#[tokio::test]
async fn a_rebuild_gives_byte_for_byte_what_publishing_gave() {
    let arena = Arena::new().await;
    let board = arena.board("daily", json!({"reset": "daily", "operator": "incr"})).await;
    arena.rebuild(board).await;
    for round in 0i64..6 {
        let players: Vec<String> = (0..40).map(|n| format!("p-{}", n * round % 37)).collect();
        let plays: Vec<_> = players.iter().map(|p| play(p, round - 2, round * 40_000)).collect();
        arena.score(board, &plays).await;
    }
    let published = arena.redis_state(board);
    assert_eq!(published.keys().filter(|k| k.ends_with(":rank")).count(), 3, "{:?}", published.keys());
    arena.rebuild(board).await;
    assert_eq!(arena.redis_state(board), published);
    // Without anything to build upon, too.
    redis::cmd("FLUSHALL").exec(&mut arena.redis.connection()).unwrap();
    arena.rebuild(board).await;
    assert_eq!(arena.redis_state(board), published);
}

#[tokio::test]
async fn publications_during_a_rebuild_are_in_the_new_board() {
    let arena = Arena::new().await;
    let board = arena.board("b", json!({})).await;
    arena.rebuild(board).await;
    arena.score(board, &[play("a", 1, 0), play("b", 2, 0), play("c", 3, 0)]).await;

    let token = arena.ranking.begin_rebuild(board).await.unwrap();
    let read = scoreline::store::entries::chunk(arena.pool(), 1, "", 100).await.unwrap();
    assert_eq!(read.len(), 3);
    // After the rebuild has read, before it writes: a fold publishes something newer, and someone new.
    arena.score(board, &[play("a", 9, 1), play("d", 5, 1)]).await;
    assert_eq!(arena.top(board).await.len(), 4, "the live board moves on");
    arena.ranking.write_rebuild(&token, &Period::WHOLE, Order::Descending, &read).await.unwrap();
    arena.score(board, &[play("b", 10, 2)]).await;
    let live = arena.redis_state(board);
    arena.ranking.finish_rebuild(&token, 1).await.unwrap();
    let swapped = arena.redis_state(board);
    let expected = [(1, "b".into(), 10), (2, "a".into(), 9), (3, "d".into(), 5), (4, "c".into(), 3)];
    assert_eq!(arena.top(board).await, expected);
    for (key, value) in &swapped {
        assert_eq!(live.get(key), Some(value), "{key}");
    }
    assert!(swapped.keys().all(|k| !k.contains("shadow") && !k.contains("rebuild")), "{:?}", swapped.keys());
}

#[tokio::test]
async fn a_removal_during_a_rebuild_leaves_a_tombstone() {
    let arena = Arena::new().await;
    let board = arena.board("b", json!({})).await;
    arena.rebuild(board).await;
    arena.score(board, &[play("a", 1, 0), play("b", 2, 0)]).await;
    let read = scoreline::store::entries::chunk(arena.pool(), 1, "", 100).await.unwrap();
    let newer = read[0].version + 1;
    let token = arena.ranking.begin_rebuild(board).await.unwrap();
    let gone = [PublishedEntry { player_id: "a", standing: None }];
    let publish = |version, entries| arena.ranking.publish(board, &Period::WHOLE, Order::Descending, version, entries);
    assert_eq!(publish(newer, &gone).await.unwrap(), PublishOutcome::Live);
    // One that left and came back has a place again, also when that ends as a tombstone does.
    let left = [PublishedEntry { player_id: "c", standing: None }];
    publish(newer, &left).await.unwrap();
    let back = Standing { reached_at: Micros(i64::from(b':')), ..standing(1) };
    let back = [PublishedEntry { player_id: "c", standing: Some(back) }];
    publish(newer + 1, &back).await.unwrap();
    // What the rebuild read before must not bring it back.
    arena.ranking.write_rebuild(&token, &Period::WHOLE, Order::Descending, &read).await.unwrap();
    arena.ranking.finish_rebuild(&token, 1).await.unwrap();
    assert_eq!(arena.top(board).await, [(1, "b".into(), 2), (2, "c".into(), 1)]);
    assert_eq!(arena.ranking.lookup(&arena.whole(board), &["c"]).await.unwrap().entries.len(), 1);
    publish(newer + 2, &left).await.unwrap();
    assert!(arena.redis_state(board).keys().all(|k| !k.contains("removed") && !k.contains("shadow")));
    // The last one leaves: nothing stays behind.
    assert_eq!(
        publish(newer, &[PublishedEntry { player_id: "b", standing: None }]).await.unwrap(),
        PublishOutcome::Live
    );
    let left: Vec<String> = arena.redis_state(board).into_values().flatten().collect();
    assert_eq!(left.len(), 2, "that it is ready, and that it has no periods: {left:?}");
}

#[tokio::test]
async fn an_older_version_never_overwrites_a_newer_one() {
    let arena = Arena::new().await;
    // By the script, and as plain commands.
    for publication in [1, 60] {
        let board = arena.board(&format!("b-{publication}"), json!({})).await;
        arena.rebuild(board).await;
        let players: Vec<String> = (0..publication).map(|n| format!("p-{n}")).collect();
        let publish = async |version, score| {
            let entries: Vec<_> = players.iter().map(|player| entry(player, score)).collect();
            let ranking = &arena.ranking;
            ranking.publish(board, &Period::WHOLE, Order::Descending, version, &entries).await.unwrap();
        };
        let scores = async || arena.top(board).await.into_iter().map(|(_, _, score)| score).collect::<Vec<_>>();
        publish(10, 5).await;
        let version = arena.ranking.version(board).await.unwrap();
        for (older, score) in [(9, 7), (10, 8), (2, 9)] {
            publish(older, score).await;
        }
        assert_eq!(scores().await, vec![5; publication], "9 < 10 as numbers, not as text");
        assert_eq!(arena.ranking.version(board).await.unwrap(), version, "nothing changed, nothing is announced");
        publish(11, 1).await;
        assert_eq!(scores().await, vec![1; publication], "each once");
    }
}

#[tokio::test]
async fn the_swap_is_fenced_by_the_rebuilds_token() {
    let arena = Arena::new().await;
    let board = arena.board("b", json!({})).await;
    arena.score(board, &[play("a", 1, 0)]).await;
    let frozen = arena.ranking.begin_rebuild(board).await.unwrap();
    let stale = [VersionedStanding { player_id: "ghost".into(), standing: standing(99), version: 1 }];
    arena.ranking.write_rebuild(&frozen, &Period::WHOLE, Order::Descending, &stale).await.unwrap();
    assert!(matches!(arena.ranking.begin_rebuild(board).await, Err(RebuildError::Busy)));
    // Its token expires while it is frozen; another begins and swaps.
    redis::cmd("DEL").arg(format!("{{sl:b3:{board}}}:rebuild")).exec(&mut arena.redis.connection()).unwrap();
    let other = arena.ranking.begin_rebuild(board).await.unwrap();
    let late = arena.ranking.write_rebuild(&frozen, &Period::WHOLE, Order::Descending, &stale).await;
    assert!(matches!(late, Err(RebuildError::Overtaken)));
    assert!(matches!(arena.ranking.finish_rebuild(&frozen, 1).await, Err(RebuildError::Overtaken)));
    arena.ranking.abort_rebuild(&frozen).await.unwrap();
    arena.ranking.finish_rebuild(&other, 1).await.unwrap();
    assert_eq!(arena.top(board).await, [], "nothing of the frozen one's shadow is left");
}

/// It may have read Postgres before what is doubted was committed.
#[tokio::test]
async fn a_rebuild_that_is_under_way_when_its_board_is_doubted_makes_nothing_ready() {
    let arena = Arena::new().await;
    let board = arena.board("b", json!({})).await;
    arena.rebuild(board).await;
    let early = arena.ranking.begin_rebuild(board).await.unwrap();
    arena.ranking.doubt(board).await.unwrap();
    assert!(matches!(arena.ranking.finish_rebuild(&early, 1).await, Err(RebuildError::Overtaken)));
    assert_eq!(arena.ranking.status(&[board]).await.unwrap(), [BoardStatus::Doubtful]);
    arena.rebuild(board).await;
    assert_eq!(arena.ranking.status(&[board]).await.unwrap(), [BoardStatus::Ready]);
}

#[tokio::test]
async fn a_missing_board_drops_its_marker_and_is_rebuilt() {
    let arena = Arena::new().await;
    let board = arena.board("b", json!({})).await;
    arena.score(board, &[play("a", 1, 0)]).await;
    assert_eq!(arena.count("SELECT count(*) FROM dirty_entries").await, 0);
    tokio::time::timeout(Duration::from_secs(1), arena.wanted.notified()).await.expect("a rebuild was asked for");
    scoreline::aggregator::rebuild::check_boards(arena.pool(), &arena.ranking, &arena.rules).await.unwrap();
    assert_eq!(arena.top(board).await, [(1, "a".into(), 1)]);
}

#[tokio::test]
async fn a_building_generation_is_in_redis_only_once_it_was_rebuilt() {
    let arena = Arena::new().await;
    let board = arena.board_in("b", json!({}), "building").await;
    arena.score(board, &[play("a", 1, 0)]).await;
    arena.score(board, &[play("b", 2, 0)]).await;
    scoreline::aggregator::rebuild::check_boards(arena.pool(), &arena.ranking, &arena.rules).await.unwrap();
    assert!(arena.redis_state(board).is_empty());
    arena.rebuild(board).await;
    arena.score(board, &[play("c", 3, 0)]).await;
    assert_eq!(arena.top(board).await.len(), 3);
}

#[tokio::test]
async fn a_closed_period_and_a_retired_board_leave_nothing_behind() {
    let arena = Arena::new().await;
    let board = arena.board("daily", json!({"reset": "daily"})).await;
    arena.rebuild(board).await;
    arena.score(board, &[play("a", 1, 0), play("a", 1, 86_400)]).await;
    let start = arena.rules.board(board).unwrap().schedule.period_at(seconds(0));
    let version = arena.ranking.version(board).await.unwrap();
    assert!(arena.ranking.remove_period(board, &start, Still::InEra("")).await.unwrap());
    assert!(!arena.ranking.remove_period(board, &start, Still::InEra("")).await.unwrap());
    assert_eq!(arena.ranking.version(board).await.unwrap(), version.map(|v| v + 1));
    assert_eq!(arena.redis_state(board).keys().filter(|k| k.ends_with(":rank")).count(), 1);
    // A rebuild does not bring back what Postgres answers for.
    sqlx::query("UPDATE leaderboard_periods SET state = 'closed', unpublished_at = now() WHERE ends_at < 'epoch'::timestamptz + 1700500000 * interval '2 s'")
        .execute(arena.pool())
        .await
        .unwrap();
    let token = arena.ranking.begin_rebuild(board).await.unwrap();
    arena.ranking.abort_rebuild(&token).await.unwrap();
    arena.ranking.remove_board(board).await.unwrap();
    let left: Vec<String> = redis::cmd("KEYS").arg("*").query(&mut arena.redis.connection()).unwrap();
    assert_eq!(left, Vec::<String>::new());
}

#[tokio::test]
async fn a_rebuild_does_not_bring_back_a_period_that_left_redis_while_it_wrote() {
    let arena = Arena::new().await;
    let board = arena.board("daily", json!({"reset": "daily"})).await;
    arena.rebuild(board).await;
    arena.score(board, &[play("a", 1, 0), play("a", 1, 86_400)]).await;
    let closed = arena.rules.board(board).unwrap().schedule.period_at(seconds(0));
    // The rebuild knows of both days and has written the newer one when the older one leaves Redis.
    let mut left = false;
    let leave = |_: u64| {
        if std::mem::replace(&mut left, true) {
            return;
        }
        let url = arena.database.url.clone();
        let leaving = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                let pool = sqlx::PgPool::connect(&url).await.unwrap();
                let leave = "UPDATE leaderboard_periods SET state = 'closed', unpublished_at = now()
                              WHERE starts_at = (SELECT min(starts_at) FROM leaderboard_periods)";
                assert_eq!(sqlx::query(leave).execute(&pool).await.unwrap().rows_affected(), 1);
            });
        });
        leaving.join().unwrap();
    };
    arena.ranking.remove_period(board, &closed, Still::InEra("")).await.unwrap();
    rebuild_board(arena.pool(), &arena.ranking, board, Order::Descending, "cron", leave).await.unwrap();
    assert!(left);
    let state = arena.redis_state(board);
    let ranked: Vec<_> = state.keys().filter(|key| key.ends_with(":rank")).collect();
    assert!(ranked.len() == 1 && !ranked[0].contains(&closed.starts_at.0.to_string()), "{ranked:?}");
    assert!(!state.keys().any(|key| key.contains("shadow")), "{:?}", state.keys());
}

#[tokio::test]
async fn a_redis_that_lost_everything_is_rebuilt_while_the_aggregator_runs() {
    let arena = Arena::new().await;
    let board = arena.board("b", json!({})).await;
    arena.facts(board, &[play("a", 1, 0)]).await;
    let lifecycle = arena.start("one");
    // The arena's own leases are given up, so that the aggregator folds.
    arena.shards.release().await;
    let limit = Duration::from_secs(10);
    let whole = arena.whole(board);
    let has = |player: &'static str| {
        let (ranking, whole) = (arena.ranking.clone(), whole);
        async move { ranking.standing(&whole, player).await.is_ok_and(|s| s.entry.is_some()) }
    };
    eventually("the first score is there", limit, || has("a")).await;
    redis::cmd("FLUSHALL").exec(&mut arena.redis.connection()).unwrap();
    eventually("the board is back", limit, || has("a")).await;
    arena.facts(board, &[play("b", 2, 0)]).await;
    eventually("scores move on", limit, || has("b")).await;
    stop(lifecycle).await;
}

#[tokio::test]
async fn another_run_of_redis_is_doubted_and_rebuilt() {
    let mut arena = Arena::new().await;
    let board = arena.board("b", json!({})).await;
    arena.rebuild(board).await;
    arena.score(board, &[play("a", 1, 0)]).await;
    assert_eq!(arena.ranking.status(&[board]).await.unwrap(), [BoardStatus::Ready]);
    // What Redis acknowledged within the last second may be gone after a crash.
    redis::cmd("DEL").arg(format!("{{sl:b3:{board}}}:p:0..:rank")).exec(&mut arena.redis.connection()).unwrap();
    arena.redis.written().await;
    arena.redis.kill();
    arena.redis.start();
    let ranking = arena.ranking.clone();
    eventually("reconnected", Duration::from_secs(5), || async { ranking.ping().await.is_ok() }).await;
    assert_eq!(arena.ranking.status(&[board]).await.unwrap(), [BoardStatus::Doubtful]);
    scoreline::aggregator::rebuild::check_boards(arena.pool(), &arena.ranking, &arena.rules).await.unwrap();
    assert_eq!(arena.top(board).await, [(1, "a".into(), 1)]);
    assert_eq!(arena.ranking.status(&[board]).await.unwrap(), [BoardStatus::Ready]);
}

#[tokio::test]
async fn publishing_goes_on_after_a_black_hole_that_never_said_goodbye() {
    let arena = Arena::new().await;
    let board = arena.board("global", json!({})).await;
    arena.rebuild(board).await;
    let proxy = Proxy::before(arena.redis.port).await;
    let ranking = Ranking::open(&proxy.url, "sl").unwrap();
    ranking.version(board).await.unwrap();
    proxy.swallow_answers_from(0);
    assert!(ranking.version(board).await.is_err(), "nobody answers");
    // The old connection stays open and silent for ever: only another one helps.
    proxy.swallow_nothing();
    eventually("another connection is made", Duration::from_secs(5), async || ranking.version(board).await.is_ok())
        .await;
}

#[tokio::test]
async fn a_publication_does_not_make_a_board_look_whole_of_which_a_part_is_lost() {
    let arena = Arena::new().await;
    let board = arena.board("b", json!({})).await;
    let players: Vec<String> = (0..120).map(|n| format!("p-{n}")).collect();
    let all: Vec<_> = players.iter().map(|player| play(player, 1, 0)).collect();
    let mut redis = arena.redis.connection();
    let mut scores = 1;
    for lost in [
        &["p:0..:rank"][..],
        &["p:0..:member"],
        &["p:0..:rank", "p:0..:member"],
        &["p:0..:rank", "p:0..:member", "periods"],
    ] {
        // By the script, and as plain commands.
        for publication in [1, 60] {
            arena.rebuild(board).await;
            arena.score(board, &all).await;
            for key in lost {
                redis::cmd("DEL").arg(format!("{{sl:b3:{board}}}:{key}")).exec(&mut redis).unwrap();
            }
            scores += 1;
            let better: Vec<_> = players[..publication].iter().map(|player| play(player, scores, 1)).collect();
            arena.score(board, &better).await;
            assert_eq!(
                arena.ranking.status(&[board]).await.unwrap(),
                [BoardStatus::Doubtful],
                "{lost:?} {publication}"
            );
            scoreline::aggregator::rebuild::check_boards(arena.pool(), &arena.ranking, &arena.rules).await.unwrap();
            let top = arena.top(board).await;
            assert_eq!((top.len(), top[0].2), (120, scores), "{lost:?} {publication}");
        }
    }
}

#[tokio::test]
async fn a_board_that_cannot_be_rebuilt_keeps_no_other_down() {
    let arena = Arena::new().await;
    let (theirs, ours) = (arena.board("theirs", json!({})).await, arena.board("ours", json!({})).await);
    for board in [theirs, ours] {
        arena.facts(board, &[play("a", 1, 0)]).await;
    }
    arena.fold().await;
    let broken = format!("{{sl:b3:{theirs}}}:shadow:periods");
    redis::cmd("SET").arg(&broken).arg("no set").exec(&mut arena.redis.connection()).unwrap();
    check_boards(arena.pool(), &arena.ranking, &arena.rules).await.unwrap_err();
    assert_eq!(arena.top(ours).await, [(1, "a".into(), 1)]);
    redis::cmd("DEL").arg(&broken).exec(&mut arena.redis.connection()).unwrap();
    check_boards(arena.pool(), &arena.ranking, &arena.rules).await.unwrap();
    assert_eq!(arena.top(theirs).await, [(1, "a".into(), 1)]);
}

#[tokio::test]
async fn periods_without_entries_cost_a_rebuild_nothing() {
    let arena = Arena::new().await;
    let board = arena.board("b", json!({"reset": {"cron": "* * * * *"}})).await;
    arena.facts(board, &[play("a", 1, 0)]).await;
    arena.fold().await;
    sqlx::query(
        "INSERT INTO leaderboard_periods (generation_id, starts_at, ends_at)
         SELECT $1, t, t + interval '1 minute' FROM generate_series(timestamptz '2001-01-01', '2001-02-01', '1 minute') t",
    )
    .bind(board.0)
    .execute(arena.pool())
    .await
    .unwrap();
    assert_eq!(arena.rebuild(board).await.periods, 1, "of 44,642");
}
