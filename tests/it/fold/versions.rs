//! Versions of boards in Postgres grow with every fold and every rebuild, also where the clock has gone back: what
//! Postgres shows, while Redis does not answer, is never older than what was shown before.

use std::time::Duration;

use scoreline::domain::ids::BoardGenerationId;
use scoreline::domain::period::Period;
use scoreline::domain::ranking_key::Standing;
use scoreline::ranking::PublishedEntry;
use scoreline::store::standings::small_board;
use scoreline::store::{board_versions, markers};
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
    board_versions::note(&mut fold, &[(board.0, 1)].into(), 1).await.unwrap();
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

/// The board's version in Postgres.
async fn in_postgres(arena: &Arena, board: BoardGenerationId) -> i64 {
    sqlx::query_scalar("SELECT version FROM board_versions WHERE generation_id = $1")
        .bind(board.0)
        .fetch_one(arena.pool())
        .await
        .unwrap()
}

async fn in_redis(arena: &Arena, board: BoardGenerationId) -> i64 {
    arena.ranking.version(board).await.unwrap().unwrap()
}

#[tokio::test]
async fn a_part_of_a_fold_is_not_shown_under_the_folds_version_nor_under_a_later_one() {
    let arena = Arena::new().await;
    let board = arena.board("daily", json!({"reset": "daily"})).await;
    let mut last = arena.rebuild(board).await.version;
    let mut connection = arena.redis.connection();
    let mut heard = connection.as_pubsub();
    heard.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    heard.subscribe("sl:boards").unwrap();
    let players: Vec<String> = (0..400).map(|n| format!("p-{n}")).collect();
    // One after another: the versions of a fold are next to those of the one before.
    for round in 1..4 {
        let today = players.iter().map(|p| play(p, round, 0));
        let tomorrow = players.iter().take(3).map(|p| play(p, round, 86_400));
        arena.facts(board, &today.chain(tomorrow).collect::<Vec<_>>()).await;
        arena.fold().await;
        let folded = in_postgres(&arena, board).await;
        assert!(in_redis(&arena, board).await < folded, "what is not published has a later version");
        arena.publish().await;
        let mut announced = Vec::new();
        let now = in_redis(&arena, board).await;
        while announced.last() != Some(&now) {
            let message: String = heard.get_message().unwrap().get_payload().unwrap();
            announced.push(message.split_once(' ').unwrap().1.parse::<i64>().unwrap());
        }
        assert!(announced.len() > 2 && announced.is_sorted_by(|a, b| a < b), "{announced:?}");
        assert!(announced[0] > last, "round {round}: {announced:?} after {last}");
        assert_eq!(now, folded, "round {round}: {announced:?}");
        last = folded;
    }
}

#[tokio::test]
async fn folds_are_as_far_apart_as_their_parts_need() {
    let arena = Arena::new().await;
    let step = arena.count("SELECT increment_by FROM pg_sequences WHERE sequencename = 'entry_version'").await;
    assert_eq!(step, scoreline::domain::board_version::VERSIONS_PER_FOLD);
}

/// Two lanes: who began first commits last, and is published in that order.
#[tokio::test]
async fn folds_that_commit_in_another_order_than_they_began_have_versions_that_do_not_meet() {
    let arena = Arena::new().await;
    let board = arena.board("b", json!({})).await;
    arena.rebuild(board).await;
    let versions = async || {
        let mut connection = arena.pool().begin().await.unwrap();
        let version = markers::next_version(&mut connection).await.unwrap();
        connection.commit().await.unwrap();
        version
    };
    let [_, first, second] = [versions().await, versions().await, versions().await];
    let players: Vec<String> = (0..120).map(|n| format!("p-{n}")).collect();
    let commit = async |version: i64, calls: i64| {
        let mut connection = arena.pool().acquire().await.unwrap();
        board_versions::note(&mut connection, &[(board.0, calls)].into(), version).await.unwrap();
    };
    let publish = async |version: i64, count: usize| {
        let standing = Some(Standing { score: version, subscore: 0, reached_at: super::arena::seconds(0) });
        let entries: Vec<_> = players[..count].iter().map(|player_id| PublishedEntry { player_id, standing }).collect();
        let order = arena.whole(board).order;
        arena.ranking.publish(board, &Period::WHOLE, order, version, &entries).await.unwrap();
    };
    commit(second, 1).await;
    let calls = scoreline::ranking::most_calls(players.len()) as i64;
    commit(first, calls).await;
    let third = versions().await;
    assert!(in_postgres(&arena, board).await < third, "the next fold's is later than both");
    publish(second, 1).await;
    publish(first, players.len()).await;
    assert_eq!(in_redis(&arena, board).await, in_postgres(&arena, board).await);
    commit(third, calls).await;
    publish(third, players.len()).await;
    assert_eq!(in_redis(&arena, board).await, in_postgres(&arena, board).await);
}
