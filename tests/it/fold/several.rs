//! Several crons: one acts per shard, another takes over (docs/rules.md#frozen-processes-keep-no-lock).

use std::time::{Duration, Instant};

use scoreline::aggregator::fold::{FoldError, fold_once};
use scoreline::aggregator::shards::Shards;
use scoreline::store::leases;
use serde_json::json;

use super::arena::{Arena, Play, play, stop};
use crate::support::eventually;

#[tokio::test]
async fn a_frozen_holder_of_a_shard_can_do_nothing() {
    let arena = Arena::new().await;
    let board = arena.board("b", json!({})).await;
    let frozen = arena.shards.held();
    assert_eq!(frozen.len(), 4);
    let other = Shards::new(arena.pool().clone(), "other".into());
    other.renew().await.unwrap();
    assert_eq!(other.held(), [], "a newcomer takes only what is free");
    arena.facts(board, &[play("a", 1, 0)]).await;
    // The holder is frozen: its leases run out, the other takes over.
    sqlx::query("UPDATE leases SET expires_at = clock_timestamp() - interval '1 s'")
        .execute(arena.pool())
        .await
        .unwrap();
    other.renew().await.unwrap();
    assert_eq!(other.held().len(), 4);
    // It thaws, and still believes.
    let thawed = fold_once(arena.pool(), &arena.rules, &frozen, 100).await;
    assert!(matches!(thawed, Err(FoldError::LeaseLost)), "{thawed:?}");
    assert_eq!(arena.entries(board).await.len(), 0);
    arena.shards.renew().await.unwrap();
    assert_eq!(arena.shards.held(), []);
    assert_eq!(fold_once(arena.pool(), &arena.rules, &other.held(), 100).await.unwrap().facts, 1);
}

#[tokio::test]
async fn a_fold_in_progress_cannot_lose_its_lease_before_it_commits() {
    let arena = Arena::new().await;
    let mut folding = arena.pool().begin().await.unwrap();
    assert!(leases::lock_and_check(&mut folding, &arena.shards.held()).await.unwrap());
    // Its leases run out while it goes on.
    sqlx::query("UPDATE leases SET expires_at = '-infinity'").execute(arena.pool()).await.unwrap();
    let other = Shards::new(arena.pool().clone(), "other".into());
    other.renew().await.unwrap();
    assert_eq!(other.held(), [], "and nobody waits for it to end");
    // A process of the version before asks otherwise, and waits.
    let taking = {
        let pool = arena.pool().clone();
        tokio::spawn(async move {
            let take = "UPDATE leases SET holder = 'old', token = nextval('lease_token')";
            sqlx::query(take).execute(&pool).await.unwrap();
            Instant::now()
        })
    };
    let waiting = "SELECT count(*) FROM pg_stat_activity
                    WHERE datname = current_database() AND wait_event_type = 'Lock'";
    eventually("the taker waits", Duration::from_secs(5), || async { arena.count(waiting).await == 1 }).await;
    let ended = Instant::now();
    folding.commit().await.unwrap();
    assert!(taking.await.unwrap() >= ended);
}

#[tokio::test]
async fn a_lease_that_expires_beyond_any_renewal_is_free() {
    let arena = Arena::new().await;
    // The server's clock went back by an hour after a holder renewed and died.
    let ahead = "UPDATE leases SET expires_at = clock_timestamp() + interval '1 hour'";
    sqlx::query(ahead).execute(arena.pool()).await.unwrap();
    let other = Shards::new(arena.pool().clone(), "other".into());
    other.renew().await.unwrap();
    assert_eq!(other.held().len(), 4);
}

#[tokio::test]
async fn a_holder_of_the_lost_future_is_not_taken_for_the_holder() {
    let arena = Arena::new().await;
    arena.shards.release().await;
    let run = async |script: &'static str| {
        sqlx::raw_sql(script).execute(&mut arena.database.superuser().await).await.unwrap();
    };
    run("CREATE TABLE past_leases AS TABLE leases;
         CREATE TABLE past_counter AS SELECT last_value FROM lease_token;")
    .await;
    let lost = Shards::new(arena.pool().clone(), "lost".into());
    lost.renew().await.unwrap();
    let theirs = lost.held();
    assert_eq!(theirs.len(), 4);
    // A backup from before is restored while it is frozen, of the rows or of none; others take the leases there.
    for restore in [
        "DELETE FROM leases; INSERT INTO leases SELECT * FROM past_leases;
         SELECT setval('lease_token', last_value) FROM past_counter;",
        "DELETE FROM leases; SELECT setval('lease_token', last_value) FROM past_counter;",
    ] {
        run(restore).await;
        let next = Shards::new(arena.pool().clone(), "next".into());
        next.renew().await.unwrap();
        assert_eq!(next.held().len(), 4);
        let mut transaction = arena.pool().begin().await.unwrap();
        for lease in &theirs {
            assert!(!leases::lock_and_check(&mut transaction, std::slice::from_ref(lease)).await.unwrap(), "{lease:?}");
        }
        transaction.rollback().await.unwrap();
        assert_eq!(leases::renew(arena.pool(), &theirs).await.unwrap(), []);
    }
    // Nor does a clock that was set back give a token again.
    let name = theirs[0].name.clone();
    let ahead = "UPDATE leases SET expires_at = '-infinity', token = 9000000000000000000";
    sqlx::query(ahead).execute(arena.pool()).await.unwrap();
    let taken = leases::acquire(arena.pool(), &name, "later").await.unwrap().unwrap();
    assert_eq!(taken.token, 9_000_000_000_000_000_001);
}

#[tokio::test]
async fn renewals_at_the_same_time_forget_no_lease_that_one_of_them_took() {
    let arena = Arena::new().await;
    arena.shards.release().await;
    for _ in 0..10 {
        let renewed = futures_util::future::join_all((0..3).map(|_| arena.shards.renew())).await;
        assert!(renewed.iter().all(Result::is_ok));
        assert_eq!(arena.shards.held().len(), 4);
        arena.shards.release().await;
        let held = "SELECT count(*) FROM leases WHERE expires_at > clock_timestamp()";
        assert_eq!(arena.count(held).await, 0, "nothing is held that nobody knows of");
    }
}

#[tokio::test]
async fn two_aggregators_share_the_work_and_one_takes_over_when_the_other_stops() {
    let arena = Arena::new().await;
    let board = arena.board("b", json!({"operator": "incr"})).await;
    arena.rebuild(board).await;
    arena.shards.release().await;
    let first = arena.start("first");
    let holders = "SELECT count(DISTINCT holder) FROM leases WHERE expires_at > now()";
    eventually("the first holds all", Duration::from_secs(5), || async { arena.count(holders).await == 1 }).await;
    let second = arena.start("second");
    let players: Vec<String> = (0..50).map(|n| format!("p-{n}")).collect();
    for round in 0..20 {
        let plays: Vec<_> = players.iter().map(|p| play(p, 1, round)).collect();
        arena.facts(board, &plays).await;
        if round == 10 {
            stop(first.clone()).await;
        }
    }
    let (ranking, whole) = (arena.ranking.clone(), arena.whole(board));
    eventually("every play counted once", Duration::from_secs(10), || async {
        let page = ranking.page(&whole, 100, None, scoreline::ranking::Direction::Forward).await;
        page.is_ok_and(|p| p.entries.len() == 50 && p.entries.iter().all(|e| e.standing.score == 20))
    })
    .await;
    let second_holds = "SELECT count(*) FROM leases WHERE holder = 'second' AND expires_at > now()";
    eventually("the second took over", Duration::from_secs(10), || async { arena.count(second_holds).await == 4 })
        .await;
    stop(second).await;
    assert!(arena.entries(board).await.values().all(|e| (e.0, e.2) == (20, 20)));
}

#[tokio::test]
async fn a_notice_wakes_the_fold_at_once() {
    let arena = Arena::new().await;
    let board = arena.board("b", json!({})).await;
    arena.rebuild(board).await;
    arena.shards.release().await;
    let lifecycle = arena.start("one");
    let mut redis = arena.redis.connection();
    eventually("it listens", Duration::from_secs(5), || {
        let listeners: Vec<(String, i64)> =
            redis::cmd("PUBSUB").arg("NUMSUB").arg("sl:q0:facts").query(&mut redis).unwrap();
        async move { listeners[0].1 == 1 }
    })
    .await;
    let holds = "SELECT count(*) FROM leases WHERE holder = 'one' AND expires_at > now()";
    eventually("it holds all", Duration::from_secs(5), || async { arena.count(holds).await == 4 }).await;
    let (ranking, whole) = (arena.ranking.clone(), arena.whole(board));
    // Ten in a row within less than half of what the idle wait alone would take.
    let started = Instant::now();
    for n in 0..10i64 {
        arena.facts(board, &[play("a", n, n)]).await;
        redis::cmd("PUBLISH").arg("sl:q0:facts").arg("").exec(&mut redis).unwrap();
        eventually("on the board", Duration::from_secs(5), || async {
            ranking.standing(&whole, "a").await.unwrap().entry.is_some_and(|e| e.standing.score == n)
        })
        .await;
    }
    assert!(started.elapsed() < Duration::from_secs(4), "woken, not ticked: {:?}", started.elapsed());
    stop(lifecycle).await;
}

#[tokio::test]
async fn folds_that_count_late_facts_in_the_same_period_do_not_wait_for_each_other_for_ever() {
    let arena = Arena::new().await;
    let board = arena.board("daily", json!({"reset": "daily", "grace_seconds": 0})).await;
    let players: Vec<String> = (0..20).map(|n| format!("p-{n}")).collect();
    let lanes = [0, 1].map(|lane| scoreline::aggregator::shards::of_lane(arena.shards.held(), lane));
    for round in 0..15 {
        let plays: Vec<_> = players
            .iter()
            .zip(0i64..)
            .map(|(p, n)| Play { received: if n % 2 == 0 { 0 } else { 86_400 }, ..play(p, round, 0) })
            .collect();
        arena.facts(board, &plays).await;
        let fold = |lane: usize| fold_once(arena.pool(), &arena.rules, &lanes[lane], 100);
        let (one, two) = tokio::join!(fold(0), fold(1));
        assert_eq!(one.unwrap().facts + two.unwrap().facts, 20);
    }
    assert_eq!(arena.count("SELECT sum(late_count)::bigint FROM leaderboard_periods").await, 150);
    assert_eq!(arena.entries(board).await.len(), 10);
}

#[tokio::test]
async fn a_period_in_which_late_facts_will_be_counted_is_locked_alone_from_the_start() {
    use scoreline::store::fold_periods::{Hold, Of, lock};
    let arena = Arena::new().await;
    let board = arena.board("b", json!({})).await;
    arena.score(board, &[play("a", 1, 0)]).await;
    let places = [(board, scoreline::domain::period::Period::WHOLE)];
    for (first, second, waits) in
        [(Hold::Shared, Hold::Shared, false), (Hold::Alone, Hold::Shared, true), (Hold::Shared, Hold::Alone, true)]
    {
        let mut one = arena.pool().begin().await.unwrap();
        let mut two = arena.pool().begin().await.unwrap();
        sqlx::query("SET LOCAL lock_timeout = '50ms'").execute(&mut *two).await.unwrap();
        assert_eq!(lock(&mut one, first, Of::Generation, &places).await.unwrap().len(), 1);
        let waited = lock(&mut two, second, Of::Generation, &places).await.is_err();
        assert_eq!(waited, waits, "{first:?}, then {second:?}");
        two.rollback().await.unwrap();
        one.rollback().await.unwrap();
    }
}
