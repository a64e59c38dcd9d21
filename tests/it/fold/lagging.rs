//! A Redis that lags takes over: what it lacks of a board must not look whole under the version of the
//! next publication.

use scoreline::aggregator::rebuild::check_boards;
use scoreline::ranking::BoardStatus;
use serde_json::json;

use super::arena::{Arena, play};

#[tokio::test]
async fn a_board_that_has_gone_back_gets_no_new_version_until_it_is_rebuilt() {
    let arena = Arena::new().await;
    let mut redis = arena.redis.connection();
    // By the script, and as plain commands.
    for publication in [1, 60] {
        let board = arena.board(&format!("b-{publication}"), json!({})).await;
        arena.rebuild(board).await;
        arena.score(board, &[play("a", 1, 0)]).await;
        let keys: Vec<String> = redis::cmd("KEYS").arg(format!("{{sl:b3:{board}}}:*")).query(&mut redis).unwrap();
        let behind: Vec<Vec<u8>> =
            keys.iter().map(|key| redis::cmd("DUMP").arg(key).query(&mut redis).unwrap()).collect();
        let old = arena.ranking.version(board).await.unwrap();
        arena.score(board, &[play("lost", 9, 1)]).await;
        for (key, value) in keys.iter().zip(behind) {
            redis::cmd("RESTORE").arg(key).arg(0).arg(value).arg("REPLACE").exec(&mut redis).unwrap();
        }
        let players: Vec<String> = (0..publication).map(|n| format!("p-{n}")).collect();
        let more: Vec<_> = players.iter().map(|player| play(player, 5, 2)).collect();
        arena.score(board, &more).await;
        assert_eq!(arena.ranking.version(board).await.unwrap(), old, "a new version says that all is there");
        assert_eq!(arena.ranking.status(&[board]).await.unwrap(), [BoardStatus::Doubtful]);
        check_boards(arena.pool(), &arena.ranking, &arena.rules).await.unwrap();
        assert_eq!(arena.top(board).await[0], (1, "lost".into(), 9));
        assert!(arena.ranking.version(board).await.unwrap() > old);
        arena.score(board, &[play("a", 10, 3)]).await;
        assert_eq!(arena.top(board).await[0], (1, "a".into(), 10), "it is published to again");
    }
}
