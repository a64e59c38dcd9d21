//! Versions of boards in Postgres grow with every fold and every rebuild, also where the clock has gone back: what
//! Postgres shows, while Redis does not answer, is never older than what was shown before.

use std::time::Duration;

use scoreline::domain::ids::BoardGenerationId;
use scoreline::store::board_versions;
use scoreline::store::standings::small_board;
use serde_json::json;

use super::arena::{Arena, play};
use crate::support::eventually;

/// All boards have versions of a clock that was an hour ahead, and has stepped back since. Returns that of this one.
async fn ahead(arena: &Arena, board: BoardGenerationId) -> i64 {
    sqlx::query_scalar(
        "UPDATE board_versions SET version = version + 3600000000 WHERE generation_id = $1 RETURNING version",
    )
    .bind(board.0)
    .fetch_one(arena.pool())
    .await
    .unwrap()
}

#[tokio::test]
async fn every_fold_gives_a_board_a_later_version_in_postgres_and_in_redis() {
    let arena = Arena::new().await;
    let board = arena.board("daily", json!({"reset": "daily"})).await;
    arena.rebuild(board).await;
    arena.score(board, &[play("a", 1, 0), play("a", 1, 86_400)]).await;
    let ahead = ahead(&arena, board).await;
    let rebuilt = arena.rebuild(board).await;
    assert!(rebuilt.version > ahead);
    let mut last = rebuilt.version;
    for round in 2..4 {
        // Of the second day alone; a version is the whole board's.
        arena.score(board, &[play("a", round, 86_400 + round)]).await;
        let redis = arena.ranking.version(board).await.unwrap().unwrap();
        assert!(redis > last);
        for period in [1, 2] {
            assert_eq!(small_board(arena.pool(), period, 10).await.unwrap().unwrap().version, redis, "period {period}");
        }
        last = redis;
    }
}

/// It has looked at the versions when the fold changes one, and takes its own when the fold has committed.
#[tokio::test]
async fn a_rebuild_that_meets_a_fold_has_a_later_version_than_it() {
    let arena = Arena::new().await;
    let board = arena.board("b", json!({})).await;
    arena.rebuild(board).await;
    ahead(&arena, board).await;
    let mut fold = arena.pool().begin().await.unwrap();
    board_versions::note(&mut fold, &[board.0], 1).await.unwrap();
    let pool = arena.pool().clone();
    let issuing = tokio::spawn(async move { board_versions::issue(&pool, board).await });
    eventually("it waits for the fold", Duration::from_secs(20), || async {
        let waiting = "SELECT count(*) FROM pg_stat_activity
                        WHERE datname = current_database() AND wait_event_type = 'Lock'";
        arena.count(waiting).await == 1
    })
    .await;
    let folded: i64 = sqlx::query_scalar("SELECT version FROM board_versions").fetch_one(&mut *fold).await.unwrap();
    fold.commit().await.unwrap();
    let issued = issuing.await.unwrap().unwrap();
    assert!(issued > folded, "{issued} after {folded}");
}

/// Players see the one in the other's place.
#[tokio::test]
async fn a_generation_that_is_built_has_a_later_version_than_those_before_it() {
    let arena = Arena::new().await;
    let board = arena.board("b", json!({})).await;
    arena.rebuild(board).await;
    let ahead = ahead(&arena, board).await;
    let next = "INSERT INTO leaderboard_generations (leaderboard_id, since_generation, spec, state)
                SELECT leaderboard_id, 2, spec, 'building' FROM leaderboard_generations RETURNING id";
    let next: i32 = sqlx::query_scalar(next).fetch_one(arena.pool()).await.unwrap();
    let issued = board_versions::issue(arena.pool(), BoardGenerationId(next)).await.unwrap();
    assert!(issued > ahead, "{issued} after {ahead}");
}
