//! Periods that are over: late, closed, frozen (docs/rules.md#closing-waits-for-stragglers).

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use scoreline::aggregator::close_periods::{close_due, ensure_current, unpublish_closed};
use scoreline::aggregator::low_water;
use scoreline::services::board_rebuild::rebuild_board;
use scoreline::store::leaderboards::Applied;
use scoreline::store::{period_closing, periods};
use serde_json::json;

use super::stage::{Stage, at};
use crate::support::eventually;

type Standing = (i64, i64, String, i64);

async fn standings(stage: &Stage, start: &str) -> Vec<Standing> {
    sqlx::query_as(
        "SELECT s.rank, s.competition_rank, s.player_id, s.score FROM period_standings s
           JOIN leaderboard_periods p ON p.id = s.period_id WHERE p.starts_at = $1 ORDER BY s.rank",
    )
    .bind(at(start))
    .fetch_all(stage.pool())
    .await
    .unwrap()
}

fn row(rank: i64, competition: i64, player: &str, score: i64) -> Standing {
    (rank, competition, player.to_owned(), score)
}

const DAY: &str = "2026-11-20T00:00:00Z";

#[tokio::test]
async fn closing_writes_final_ranks_of_both_tie_policies() {
    for (order, expected) in [
        (
            "descending",
            [row(1, 1, "a", 9), row(2, 2, "B", 7), row(3, 2, "b", 7), row(4, 2, "c", 7), row(5, 5, "d", -4)],
        ),
        ("ascending", [row(1, 1, "d", -4), row(2, 2, "B", 7), row(3, 2, "b", 7), row(4, 2, "c", 7), row(5, 5, "a", 9)]),
    ] {
        let stage = Stage::new("2026-11-20T12:00:00Z").await;
        stage.live("daily", json!({"reset": "daily", "order": order})).await;
        stage
            .accept(&[
                stage.event("d", -4, "2026-11-20T01:00:00Z"),
                stage.event("c", 7, "2026-11-20T03:00:00Z"),
                // The same moment: bytes of the id decide, as in Redis.
                stage.event("b", 7, "2026-11-20T02:00:00Z"),
                stage.event("B", 7, "2026-11-20T02:00:00Z"),
                stage.event("a", 9, "2026-11-20T04:00:00Z"),
            ])
            .await;
        stage.fold().await;
        let tenure = stage.tenure("job-close-periods").await;
        // By this process's clock, whatever that of the queue says.
        stage.set_now("2026-11-21T00:10:00Z");
        stage.queue_clock.store(at("2026-11-21T01:00:00Z").0, Ordering::SeqCst);
        assert_eq!(close_due(&stage.context, &tenure).await.unwrap(), 0, "the grace has not passed");
        stage.queue_clock.store(0, Ordering::SeqCst);
        stage.set_now("2026-11-21T00:10:00.000001Z");
        assert_eq!(close_due(&stage.context, &tenure).await.unwrap(), 1);
        assert_eq!(standings(&stage, DAY).await, expected);
        let closed = "SELECT entry_count FROM leaderboard_periods WHERE state = 'closed' AND closed_at IS NOT NULL";
        assert_eq!(stage.count(closed).await, 5);
        assert_eq!(close_due(&stage.context, &tenure).await.unwrap(), 0, "once");
    }
}

#[tokio::test]
async fn a_period_stays_open_while_its_scores_are_queued() {
    let stage = Stage::new("2026-11-20T12:00:00Z").await;
    stage.live("daily", json!({"reset": "daily"})).await;
    stage.accept(&[stage.event("a", 1, "2026-11-20T01:00:00Z")]).await;
    stage.set_now("2026-11-21T01:00:00Z");
    let tenure = stage.tenure("job-close-periods").await;
    // A fact that is not folded.
    assert_eq!(low_water::of_all(&stage.context).await.unwrap().mark(), at("2026-11-20T01:00:00Z"));
    assert_eq!(close_due(&stage.context, &tenure).await.unwrap(), 0);
    stage.fold().await;
    // A job in the queue, received within the grace.
    stage.set_oldest_job(Some("2026-11-21T00:09:59Z"));
    assert_eq!(close_due(&stage.context, &tenure).await.unwrap(), 0);
    stage.set_oldest_job(None);
    // A dead letter that nobody has decided.
    sqlx::query(
        "INSERT INTO dead_letters (id, job_id, queue, lane, kind, reason, error, attempts, crashes, payload, received_at)
         VALUES (gen_random_uuid(), 'j', 'q0', 'high', 'k', 'r', 'e', 1, 0, '', '2026-11-20T23:00:00Z')",
    )
    .execute(stage.pool())
    .await
    .unwrap();
    assert_eq!(close_due(&stage.context, &tenure).await.unwrap(), 0);
    sqlx::query("UPDATE dead_letters SET state = 'discarded', decided_at = now()").execute(stage.pool()).await.unwrap();
    // A job that was received later holds only late scores for it.
    stage.set_oldest_job(Some("2026-11-21T00:10:01Z"));
    assert_eq!(close_due(&stage.context, &tenure).await.unwrap(), 1);
}

#[tokio::test]
async fn facts_are_seen_whichever_side_they_are_on() {
    let stage = Stage::new("2026-11-20T12:00:00Z").await;
    stage.live("daily", json!({"reset": "daily"})).await;
    stage.accept(&[stage.event("a", 1, "2026-11-20T01:00:00Z")]).await;
    let done = AtomicBool::new(false);
    // Set aside and brought back all the time.
    let moving = async {
        while !done.load(Ordering::SeqCst) {
            sqlx::query("UPDATE score_facts SET shard = -1 - shard").execute(stage.pool()).await.unwrap();
        }
    };
    let looking = async {
        let mut missed = 0;
        for _ in 0..300 {
            missed += u32::from(low_water::of_all(&stage.context).await.unwrap().oldest().is_none());
        }
        done.store(true, Ordering::SeqCst);
        missed
    };
    assert_eq!(tokio::join!(moving, looking).1, 0);
}

#[tokio::test]
async fn frozen_standings_stay_and_an_outage_makes_nobody_late() {
    let stage = Stage::new("2026-11-20T12:00:00Z").await;
    let board = stage.live("daily", json!({"reset": "daily", "operator": "incr"})).await;
    // Received in time, stored long after: an outage over the end.
    let mut waited = stage.event("a", 5, "2026-11-20T23:59:59Z");
    waited.received_at = at("2026-11-21T00:10:00Z");
    stage.set_now("2026-11-22T12:00:00Z");
    stage.accept(&[stage.event("b", 3, "2026-11-20T10:00:00Z"), waited]).await;
    stage.fold().await;
    let tenure = stage.tenure("job-close-periods").await;
    assert_eq!(close_due(&stage.context, &tenure).await.unwrap(), 1);
    let frozen = [row(1, 1, "a", 5), row(2, 2, "b", 3)];
    assert_eq!(standings(&stage, DAY).await, frozen);
    // Late by the rule; and one that says it was received in time, after all was frozen.
    let mut late = stage.event("b", 100, "2026-11-20T10:00:00Z");
    late.received_at = at("2026-11-22T11:00:00Z");
    stage.accept(&[late, stage.event("b", 1_000, "2026-11-20T10:00:00Z")]).await;
    stage.fold().await;
    assert_eq!(standings(&stage, DAY).await, frozen);
    let scores: Vec<String> = stage.entries(board.generation.id).await.into_iter().map(|e| e.2).collect();
    assert_eq!(scores, ["5", "3"]);
    assert_eq!(stage.count("SELECT late_count FROM leaderboard_periods WHERE state = 'closed'").await, 2);
}

#[tokio::test]
async fn missed_closings_are_caught_up_after_downtime() {
    let stage = Stage::new("2026-11-10T12:00:00Z").await;
    stage.live("daily", json!({"reset": "daily"})).await;
    for day in 11..=15 {
        stage.accept(&[stage.event("a", day, &format!("2026-11-{day}T10:00:00Z"))]).await;
    }
    // Also an event ahead of the clock makes its period.
    stage.accept(&[stage.event("a", 1, "2026-11-20T10:00:00Z")]).await;
    stage.fold().await;
    stage.set_now("2026-11-16T00:05:00Z");
    let tenure = stage.tenure("job-close-periods").await;
    assert_eq!(close_due(&stage.context, &tenure).await.unwrap(), 4, "the grace of the 15th has not passed");
    stage.set_now("2026-11-16T00:11:00Z");
    assert_eq!(close_due(&stage.context, &tenure).await.unwrap(), 1);
    assert_eq!(standings(&stage, "2026-11-13T00:00:00Z").await, [row(1, 1, "a", 13)]);
    assert_eq!(stage.count("SELECT count(*) FROM leaderboard_periods WHERE state = 'open'").await, 1);
}

#[tokio::test]
async fn a_period_that_is_frozen_and_not_ranked_is_finished() {
    let stage = Stage::new("2026-11-20T12:00:00Z").await;
    stage.live("daily", json!({"reset": "daily"})).await;
    stage.accept(&[stage.event("a", 1, "2026-11-20T01:00:00Z")]).await;
    stage.fold().await;
    sqlx::query("UPDATE leaderboard_periods SET state = 'closed'").execute(stage.pool()).await.unwrap();
    stage.set_now("2026-11-22T00:00:00Z");
    let tenure = stage.tenure("job-close-periods").await;
    // Whatever waits now is late for it.
    stage.set_oldest_job(Some("2026-11-20T01:00:00Z"));
    assert_eq!(close_due(&stage.context, &tenure).await.unwrap(), 1);
    assert_eq!(standings(&stage, DAY).await, [row(1, 1, "a", 1)]);
}

#[tokio::test]
async fn closing_waits_for_a_fold_in_flight() {
    let stage = Stage::new("2026-11-20T12:00:00Z").await;
    stage.live("daily", json!({"reset": "daily"})).await;
    stage.accept(&[stage.event("a", 1, "2026-11-20T01:00:00Z")]).await;
    stage.fold().await;
    stage.accept(&[stage.event("a", 2, "2026-11-20T02:00:00Z")]).await;
    stage.set_now("2026-11-22T00:00:00Z");
    let period = stage.count("SELECT id FROM leaderboard_periods").await;
    // The fold has found the period open and written entries when it comes to its marker.
    let mut gate = stage.database.superuser().await;
    sqlx::raw_sql("BEGIN; LOCK TABLE dirty_entries IN EXCLUSIVE MODE").execute(&mut gate).await.unwrap();
    let wait = async |count: i64| {
        let waiting = "SELECT count(*) FROM pg_stat_activity
                        WHERE datname = current_database() AND wait_event_type = 'Lock'";
        eventually("they wait", Duration::from_secs(10), async || stage.count(waiting).await == count).await;
    };
    let closing = async {
        wait(1).await;
        let mut connection = stage.pool().acquire().await.unwrap();
        let mut freezing = std::pin::pin!(period_closing::freeze(&mut connection, period, &[]));
        tokio::select! {
            frozen = &mut freezing => panic!("closed under a fold: {frozen:?}"),
            () = wait(2) => {}
        }
        sqlx::raw_sql("ROLLBACK").execute(&mut gate).await.unwrap();
        freezing.await.unwrap()
    };
    assert!(tokio::join!(stage.fold(), closing).1);
    let tenure = stage.tenure("job-close-periods").await;
    assert_eq!(close_due(&stage.context, &tenure).await.unwrap(), 1);
    assert_eq!(standings(&stage, DAY).await, [row(1, 1, "a", 2)]);
}

#[tokio::test]
async fn a_closed_period_leaves_redis_and_stays_away() {
    let stage = Stage::new("2026-11-20T12:00:00Z").await;
    let board = stage.live("daily", json!({"reset": "daily"})).await;
    stage.accept(&[stage.event("a", 1, "2026-11-20T01:00:00Z"), stage.event("a", 1, "2026-11-21T01:00:00Z")]).await;
    stage.fold().await;
    let (id, order) = (board.generation.id, board.generation.spec.definition.order);
    rebuild_board(stage.pool(), &stage.ranking, id, order, "cron", |_| {}).await.unwrap();
    let keys = || -> usize {
        let pattern = format!("{{sl:b3:{id}}}:p:*");
        redis::cmd("KEYS").arg(pattern).query::<Vec<String>>(&mut stage.redis.connection()).unwrap().len()
    };
    assert_eq!(keys(), 4);
    stage.set_now("2026-11-21T12:00:00Z");
    let tenure = stage.tenure("job-close-periods").await;
    close_due(&stage.context, &tenure).await.unwrap();
    stage.set_now("2026-11-22T12:00:00Z");
    assert_eq!(unpublish_closed(&stage.context, &tenure).await.unwrap(), 0, "players still look at it");
    stage.set_now("2026-11-22T12:00:01Z");
    assert_eq!(unpublish_closed(&stage.context, &tenure).await.unwrap(), 1);
    assert_eq!(keys(), 2);
    rebuild_board(stage.pool(), &stage.ranking, id, order, "cron", |_| {}).await.unwrap();
    assert_eq!(keys(), 2);
}

#[tokio::test]
async fn frozen_standings_outlive_an_edit() {
    let stage = Stage::new("2026-11-20T12:00:00Z").await;
    stage.live("daily", json!({"reset": "daily"})).await;
    stage.accept(&[stage.event("a", 8, "2026-11-20T01:00:00Z"), stage.event("b", 9, "2026-11-20T01:00:00Z")]).await;
    stage.accept(&[stage.event("a", 8, "2026-11-22T01:00:00Z"), stage.event("b", 9, "2026-11-22T01:00:00Z")]).await;
    stage.fold().await;
    stage.set_now("2026-11-22T12:00:00Z");
    let tenure = stage.tenure("job-close-periods").await;
    assert_eq!(close_due(&stage.context, &tenure).await.unwrap(), 1);
    let spec = Stage::spec("daily", json!({"reset": "daily", "order": "ascending"}));
    assert_eq!(stage.apply(&spec, false).await.unwrap(), Applied::Recomputing);
    stage.build(stage.newest("daily").await.0).await;
    assert_eq!(close_due(&stage.context, &tenure).await.unwrap(), 0);
    assert_eq!(standings(&stage, DAY).await, [row(1, 1, "b", 9), row(2, 2, "a", 8)], "as it was settled");
    let live = stage.newest("daily").await.0;
    let shown = periods::began_before(stage.pool(), live, at("2026-11-23T00:00:00Z"), 10).await.unwrap();
    let shown: Vec<_> = shown.iter().map(|p| (p.closed, p.generation == live)).collect();
    assert_eq!(shown, [(false, true), (true, false)], "the current one, and the archive as it was counted");
    stage.set_now("2026-11-23T12:00:00Z");
    assert_eq!(close_due(&stage.context, &tenure).await.unwrap(), 1);
    assert_eq!(standings(&stage, "2026-11-22T00:00:00Z").await, [row(1, 1, "a", 8), row(2, 2, "b", 9)]);
}

#[tokio::test]
async fn the_current_period_of_every_leaderboard_exists_before_anybody_scores() {
    let stage = Stage::new("2026-03-29T00:30:00Z").await;
    stage.live("berlin", json!({"reset": "daily", "time_zone": "Europe/Berlin"})).await;
    stage.live("never", json!({})).await;
    let tenure = stage.tenure("job-ensure-periods").await;
    ensure_current(&stage.context, &tenure).await.unwrap();
    ensure_current(&stage.context, &tenure).await.unwrap();
    let periods: Vec<(String, Option<String>)> = sqlx::query_as(
        "SELECT to_char(starts_at AT TIME ZONE 'UTC', 'MM-DD HH24:MI'), to_char(ends_at AT TIME ZONE 'UTC', 'MM-DD HH24:MI')
           FROM leaderboard_periods ORDER BY starts_at",
    )
    .fetch_all(stage.pool())
    .await
    .unwrap();
    // The night of the change has 23 hours.
    assert_eq!(periods, [("01-01 00:00".into(), None), ("03-28 23:00".into(), Some("03-29 22:00".into()))]);
}
