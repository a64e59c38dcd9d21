//! The audit finds what is wrong, repairs Redis and reports Postgres.

use std::sync::Arc;

use scoreline::aggregator::audit::{audit_all_samples, audit_board};
use scoreline::aggregator::audit_events::audit_entries;
use scoreline::aggregator::rebuild::rebuild_board;
use scoreline::domain::board::CompiledBoard;
use scoreline::domain::clock::Micros;
use scoreline::domain::ranking_key::{Standing, write_place};
use serde_json::json;

use super::stage::{Happening, Stage};

async fn published(stage: &Stage) -> Arc<CompiledBoard> {
    let board = stage.live("b", json!({})).await;
    let events: Vec<Happening> =
        (0..1_200).map(|n| stage.event(&format!("p-{n}"), n * 31 % 500, "2026-11-20T01:00:00Z")).collect();
    stage.accept(&events).await;
    stage.fold().await;
    // As if published: the markers are consumed and Redis has the board.
    sqlx::query("DELETE FROM dirty_entries").execute(stage.pool()).await.unwrap();
    rebuild_board(stage.pool(), &stage.ranking, board.generation.id, board.generation.spec.definition.order, |_| {})
        .await
        .unwrap();
    stage.rules.board(board.generation.id).unwrap()
}

#[tokio::test]
async fn an_audit_of_a_sound_board_is_clean() {
    let stage = Stage::new("2026-11-21T00:00:00Z").await;
    let board = published(&stage).await;
    let audit = audit_board(stage.pool(), &stage.ranking, &board, true, &stage.context.stop).await.unwrap();
    assert!(audit.is_clean(), "{audit:?}");
    assert_eq!((audit.redis.compared, audit.events.as_ref().unwrap().computed), (1_200, 1_200));
    assert!(serde_json::to_string(&audit).unwrap().contains("\"compared\":1200"));
    let tenure = stage.tenure("job-audit-boards").await;
    assert_eq!(audit_all_samples(&stage.context, &tenure).await.unwrap(), 0);
}

#[tokio::test]
async fn an_audit_finds_drift_in_redis_and_repairs_it() {
    let stage = Stage::new("2026-11-21T00:00:00Z").await;
    let board = published(&stage).await;
    let base = format!("{{sl:b2:{}}}:p:0", board.generation.id);
    let mut connection = stage.redis.connection();
    let order = board.generation.spec.definition.order;
    let (rank, member) = (format!("{base}:rank"), format!("{base}:member"));
    let mut place_of = |player: &str| -> Vec<u8> {
        let value: Vec<u8> = redis::cmd("HGET").arg(&member).arg(player).query(&mut connection).unwrap();
        let colon = value.iter().position(|b| *b == b':').unwrap();
        value[colon + 1..].to_vec()
    };
    let meddle = |parts: &[&[u8]]| {
        let mut command = redis::cmd(std::str::from_utf8(parts[0]).unwrap());
        for part in &parts[1..] {
            command.arg(*part);
        }
        command.query::<redis::Value>(&mut stage.redis.connection()).unwrap();
    };
    let (rank, member) = (rank.as_bytes(), member.as_bytes());
    // Lost, changed, and one that nobody scored.
    meddle(&[b"ZREM", rank, &[&place_of("p-7")[..], b"p-7"].concat()]);
    meddle(&[b"HDEL", member, b"p-7"]);
    let place = place_of("p-8");
    meddle(&[b"ZREM", rank, &[&place[..], b"p-8"].concat()]);
    let mut forged = Vec::new();
    write_place(&mut forged, &Standing { score: 1_000_000, subscore: 0, reached_at: Micros(0) }, order);
    meddle(&[b"ZADD", rank, b"0", &[&forged[..], b"p-8"].concat()]);
    meddle(&[b"HSET", member, b"p-8", &[b"1:", &forged[..]].concat()]);
    for ghost in [&b"ghost-1"[..], b"ghost-2"] {
        meddle(&[b"ZADD", rank, b"0", &[&place[..], ghost].concat()]);
        meddle(&[b"HSET", member, ghost, &[b"1:", &place[..]].concat()]);
    }
    let audit = audit_board(stage.pool(), &stage.ranking, &board, false, &stage.context.stop).await.unwrap();
    assert_eq!((audit.redis.missing, audit.redis.different, audit.redis.extra), (1, 1, 1), "{audit:?}");
    assert!(audit.redis.repaired);
    let again = audit_board(stage.pool(), &stage.ranking, &board, false, &stage.context.stop).await.unwrap();
    assert!(again.is_clean(), "{again:?}");
    // One whose text is right and whose place is not.
    let moved = [&place_of("p-9")[..], b"p-9"].concat();
    for score in ["1e18", "-1e18"] {
        meddle(&[b"ZADD", rank, b"XX", score.as_bytes(), &moved]);
        let audit = audit_board(stage.pool(), &stage.ranking, &board, false, &stage.context.stop).await.unwrap();
        assert_eq!((audit.redis.missing, audit.redis.different, audit.redis.extra), (0, 1, 0), "{score} {audit:?}");
    }
}

#[tokio::test]
async fn an_audit_reports_entries_that_are_not_what_the_events_say_and_touches_nothing() {
    let stage = Stage::new("2026-11-21T00:00:00Z").await;
    let board = published(&stage).await;
    for statement in [
        "UPDATE leaderboard_entries SET score = score + 1 WHERE player_id = 'p-1'",
        "DELETE FROM leaderboard_entries WHERE player_id = 'p-2'",
        "INSERT INTO leaderboard_entries SELECT period_id, 'p-ghost', 1, 0, reached_at, event_id, 1, version FROM leaderboard_entries LIMIT 1",
    ] {
        sqlx::query(statement).execute(stage.pool()).await.unwrap();
    }
    let audit = audit_entries(stage.pool(), &board).await.unwrap();
    assert_eq!(audit.differing, 3);
    let players: Vec<&str> = audit.differences.iter().map(|d| d.player_id.as_str()).collect();
    assert_eq!(players, ["p-1", "p-2", "p-ghost"]);
    assert!(audit.differences[1].stored.is_none() && audit.differences[2].computed.is_none());
    assert_eq!(audit_entries(stage.pool(), &board).await.unwrap().differing, 3);
}

#[tokio::test]
async fn facts_that_wait_are_no_difference() {
    let stage = Stage::new("2026-11-21T00:00:00Z").await;
    let board = published(&stage).await;
    stage
        .accept(&[stage.event("p-1", 9_999, "2026-11-20T02:00:00Z"), stage.event("new", 1, "2026-11-20T02:00:00Z")])
        .await;
    let audit = audit_entries(stage.pool(), &board).await.unwrap();
    assert_eq!((audit.computed, audit.differing), (1_201, 0), "{audit:?}");
}
