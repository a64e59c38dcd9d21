//! A crash at any line repeats publication and never loses it (ARCHITECTURE.md#invariants). A step that a crash cut off
//! is a step that is not called.

use std::sync::Arc;
use std::time::Duration;

use scoreline::aggregator::publish::Publisher;
use scoreline::aggregator::rules::Rules;
use scoreline::ranking::{BoardStatus, RebuildError};
use scoreline::runtime::clock;
use serde_json::json;

use super::arena::{Arena, play, stop};
use crate::support::eventually;

#[tokio::test]
async fn a_crash_between_commit_and_publish_loses_nothing() {
    let arena = Arena::new().await;
    let board = arena.board("b", json!({})).await;
    arena.rebuild(board).await;
    arena.facts(board, &[play("a", 1, 0)]).await;
    let folded = arena.fold().await;
    drop(folded);
    assert_eq!(arena.top(board).await, [], "the process died here");
    arena.publish().await;
    assert_eq!(arena.top(board).await, [(1, "a".into(), 1)]);
}

#[tokio::test]
async fn a_crash_between_publish_and_clear_shows_nothing_twice() {
    let arena = Arena::new().await;
    let board = arena.board("b", json!({"operator": "incr"})).await;
    arena.rebuild(board).await;
    arena.facts(board, &[play("a", 1, 0)]).await;
    let first = arena.fold().await.marker.unwrap();
    arena.publisher().publish(&first.bytes).await.unwrap();
    // The process died here: the row is still there. The next one folds more before it publishes the leftovers.
    arena.facts(board, &[play("a", 10, 1)]).await;
    let second = arena.fold().await.marker.unwrap();
    arena.publisher().publish(&second.bytes).await.unwrap();
    let before = (arena.redis_state(board), arena.ranking.version(board).await.unwrap());
    assert_eq!(arena.count("SELECT count(*) FROM dirty_entries").await, 2);
    arena.publish().await;
    assert_eq!((arena.redis_state(board), arena.ranking.version(board).await.unwrap()), before);
    assert_eq!(arena.count("SELECT count(*) FROM dirty_entries").await, 0);
    assert_eq!(arena.top(board).await, [(1, "a".into(), 11)]);
}

#[tokio::test]
async fn a_fold_that_does_not_commit_changes_nothing() {
    let arena = Arena::new().await;
    let board = arena.board("b", json!({})).await;
    arena.facts(board, &[play("a", 1, 0)]).await;
    // The last statement before the commit fails, as when the connection is lost there.
    let refuse = "ALTER TABLE dirty_entries ADD CONSTRAINT refuse CHECK (false) NOT VALID";
    let mut owner = arena.database.owner().await;
    sqlx::query(refuse).execute(&mut owner).await.unwrap();
    let held = arena.shards.held();
    assert!(scoreline::aggregator::fold::fold_once(arena.pool(), &arena.rules, &held, 100).await.is_err());
    assert_eq!(arena.entries(board).await.len(), 0);
    sqlx::query("ALTER TABLE dirty_entries DROP CONSTRAINT refuse").execute(&mut owner).await.unwrap();
    assert_eq!(arena.fold().await.facts, 1);
    assert_eq!(arena.entries(board).await["a"].2, 1, "counted once");
}

#[tokio::test]
async fn what_was_folded_while_redis_was_away_is_published_when_it_is_back() {
    let mut arena = Arena::new().await;
    let board = arena.board("b", json!({})).await;
    arena.rebuild(board).await;
    arena.shards.release().await;
    let lifecycle = arena.start("one");
    arena.redis.kill();
    for n in 0..8 {
        arena.facts(board, &[play("a", n, n), play("b", n, n)]).await;
        let pool = arena.pool().clone();
        eventually("the fold goes on without Redis", Duration::from_secs(10), || async {
            sqlx::query_scalar::<_, i64>("SELECT count(*) FROM score_facts").fetch_one(&pool).await.unwrap() == 0
        })
        .await;
    }
    assert!(arena.count("SELECT count(*) FROM dirty_entries").await > 1, "markers wait in Postgres");
    arena.redis.start();
    let (ranking, whole) = (arena.ranking.clone(), arena.whole(board));
    eventually("both are on the board", Duration::from_secs(10), || async {
        let page = ranking.page(&whole, 5, None, scoreline::ranking::Direction::Forward).await;
        page.is_ok_and(|p| p.entries.iter().filter(|e| e.standing.score == 7).count() == 2)
    })
    .await;
    let pool = arena.pool().clone();
    eventually("no marker is left", Duration::from_secs(10), || async {
        sqlx::query_scalar::<_, i64>("SELECT count(*) FROM dirty_entries").fetch_one(&pool).await.unwrap() == 0
    })
    .await;
    stop(lifecycle).await;
}

#[tokio::test]
async fn what_an_earlier_process_left_behind_is_published_at_the_start() {
    let arena = Arena::new().await;
    let board = arena.board("b", json!({})).await;
    arena.rebuild(board).await;
    arena.facts(board, &[play("a", 1, 0)]).await;
    arena.fold().await;
    arena.shards.release().await;
    let lifecycle = arena.start("next");
    let (ranking, whole) = (arena.ranking.clone(), arena.whole(board));
    eventually("the leftover is on the board", Duration::from_secs(10), || async {
        ranking.standing(&whole, "a").await.is_ok_and(|s| s.entry.is_some())
    })
    .await;
    stop(lifecycle).await;
    let free = "SELECT count(*) FROM leases WHERE expires_at < now()";
    assert_eq!(arena.count(free).await, 4, "it signed off");
}

/// A connection that breaks during COMMIT leaves it open whether the fold took effect: its marker may be there though
/// nobody was told.
#[tokio::test]
async fn a_marker_that_nobody_announced_is_still_published() {
    let arena = Arena::new().await;
    let board = arena.board("b", json!({})).await;
    arena.rebuild(board).await;
    arena.facts(board, &[play("a", 1, 0)]).await;
    arena.fold().await;
    let (shard, entries): (i16, Vec<u8>) =
        sqlx::query_as("DELETE FROM dirty_entries RETURNING shard, entries").fetch_one(arena.pool()).await.unwrap();
    arena.shards.release().await;
    let running = arena.start("cron");
    arena.facts(board, &[play("z", 2, 1)]).await;
    eventually("the aggregator works", Duration::from_secs(20), || async { arena.top(board).await.len() == 1 }).await;
    sqlx::query("INSERT INTO dirty_entries (shard, entries) VALUES ($1, $2)")
        .bind(shard)
        .bind(entries)
        .execute(arena.pool())
        .await
        .unwrap();
    eventually("it is published", Duration::from_secs(20), || async { arena.top(board).await.len() == 2 }).await;
    stop(running).await;
}

#[tokio::test]
async fn a_marker_that_nobody_can_read_has_every_board_rebuilt() {
    let arena = Arena::new().await;
    let board = arena.board("b", json!({})).await;
    arena.rebuild(board).await;
    // A process that has just started: nobody has asked it for a definition yet.
    let fresh = Arc::new(Rules::new(arena.pool().clone()));
    let (pool, ranking) = (arena.pool().clone(), arena.ranking.clone());
    let mut publisher =
        Publisher::new(pool, ranking, fresh, arena.shards.clone(), clock::system(), arena.wanted.clone());
    let rebuilding = arena.ranking.begin_rebuild(board).await.unwrap();
    assert!(publisher.publish(&[99, 1, 2]).await.is_err(), "whoever can read it may come back: it is kept");
    assert_eq!(arena.ranking.status(&[board]).await.unwrap(), [BoardStatus::Doubtful]);
    // Nor does a rebuild make it ready that may have read before.
    let late = arena.ranking.finish_rebuild(&rebuilding, 1).await;
    assert!(matches!(late, Err(RebuildError::Overtaken)), "{late:?}");
}
