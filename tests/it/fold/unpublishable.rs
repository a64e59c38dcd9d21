//! Boards that Redis holds in a way that nothing can be published to: somebody else wrote there.

use scoreline::aggregator::rebuild::check_boards;
use scoreline::ranking::BoardStatus;
use serde_json::json;

use super::arena::{Arena, play};

#[tokio::test]
async fn a_board_that_cannot_be_published_to_keeps_no_other_waiting_and_is_rebuilt() {
    let arena = Arena::new().await;
    let (theirs, ours) = (arena.board("theirs", json!({})).await, arena.board("ours", json!({})).await);
    let players: Vec<String> = (0..60).map(|n| format!("p-{n}")).collect();
    let mut redis = arena.redis.connection();
    let mut scores = 1;
    // The first two are found by looking; of the others only the attempt to write tells.
    for broken in ["p:0..:rank", "p:0..:member", "periods", "version"] {
        // By the script, and as plain commands.
        for publication in [1, 60] {
            for board in [theirs, ours] {
                arena.rebuild(board).await;
            }
            arena.score(theirs, &[play("a", 1, 0)]).await;
            let key = format!("{{sl:b3:{theirs}}}:{broken}");
            redis::cmd("SET").arg(&key).arg("x").exec(&mut redis).unwrap();
            scores += 1;
            let better: Vec<_> = players[..publication].iter().map(|player| play(player, scores, 1)).collect();
            arena.facts(theirs, &better).await;
            arena.facts(ours, &better).await;
            arena.fold().await;
            arena.publish().await;
            let what = format!("{broken} {publication}");
            assert_eq!(arena.count("SELECT count(*) FROM dirty_entries").await, 0, "{what}");
            assert_eq!(arena.top(ours).await[0].2, scores, "{what}");
            assert_ne!(arena.ranking.status(&[theirs]).await.unwrap(), [BoardStatus::Ready], "{what}");
            check_boards(arena.pool(), &arena.ranking, &arena.rules).await.unwrap();
            let top = arena.top(theirs).await;
            assert!(top[0].2 == scores && top.iter().any(|(_, player, _)| player == "a"), "{what}: {top:?}");
            arena.score(theirs, &[play("p-0", scores + 100, 2)]).await;
            assert_eq!(arena.top(theirs).await[0].2, scores + 100, "{what}: published to again");
            scores += 100;
        }
    }
}

#[tokio::test]
async fn a_publication_that_fails_for_one_board_costs_its_rebuild_one_turn_at_most() {
    let arena = Arena::new().await;
    let board = arena.board("b", json!({})).await;
    arena.rebuild(board).await;
    arena.score(board, &[play("a", 1, 0)]).await;
    // Only the attempt to write finds this out, each time.
    let key = format!("{{sl:b3:{board}}}:periods");
    redis::cmd("SET").arg(&key).arg("x").exec(&mut arena.redis.connection()).unwrap();
    arena.score(board, &[play("a", 2, 1)]).await;
    assert_eq!(arena.ranking.status(&[board]).await.unwrap(), [BoardStatus::Missing]);
    // From here on publications go into what the rebuild makes, and none of them fails.
    let token = arena.ranking.begin_rebuild(board).await.unwrap();
    arena.score(board, &[play("a", 3, 2)]).await;
    arena.ranking.finish_rebuild(&token, 1).await.unwrap();
    assert_eq!(arena.top(board).await, [(1, "a".into(), 3)]);
}
