//! Edits, deletes and recomputes lose nothing and bring nothing back; what is final stays as it was.

use scoreline::aggregator::close_periods::close_due;
use scoreline::domain::board::{Order, TiePolicy};
use scoreline::domain::ids::BoardGenerationId;
use scoreline::domain::period::Period;
use scoreline::ranking::{BoardPeriod, Direction};
use scoreline::services::audit::entries::audit_entries;
use scoreline::store::final_periods;
use scoreline::store::leaderboards::Applied;
use scoreline::store::period_closing;
use scoreline::store::periods::{self, StoredPeriod};
use serde_json::{Value, json};

use super::stage::{Stage, at};

/// Monday.
const MONDAY: &str = "2026-11-23T00:00:00Z";

fn period(from: &str, to: &str) -> Period {
    Period { starts_at: at(from), ends_at: Some(at(to)) }
}

fn week() -> Period {
    period(MONDAY, "2026-11-30T00:00:00Z")
}

fn monday() -> Period {
    period(MONDAY, "2026-11-24T00:00:00Z")
}

async fn live(stage: &Stage, slug: &str) -> BoardGenerationId {
    let live: i32 =
        sqlx::query_scalar("SELECT live_generation_id FROM leaderboards WHERE slug = $1 AND deleted_at IS NULL")
            .bind(slug)
            .fetch_one(stage.pool())
            .await
            .unwrap();
    BoardGenerationId(live)
}

/// All periods of a board, as the api lists them.
async fn listed(stage: &Stage, slug: &str) -> Vec<StoredPeriod> {
    periods::began_before(stage.pool(), live(stage, slug).await, at("2030-01-01T00:00:00Z"), 1_000).await.unwrap()
}

/// Edits a board and computes it.
async fn edit(stage: &Stage, slug: &str, over: Value) -> BoardGenerationId {
    assert_eq!(stage.apply(&Stage::spec(slug, over), false).await.unwrap(), Applied::Recomputing);
    let building = stage.newest(slug).await.0;
    stage.build(building).await;
    building
}

async fn close(stage: &Stage) -> u64 {
    let tenure = stage.tenure("job-close-periods").await;
    let closed = close_due(&stage.context, &tenure).await.unwrap();
    tenure.sign_off().await;
    closed
}

/// Rank, player and score as they were settled.
async fn settled(stage: &Stage, id: i64) -> Vec<(i64, String, i64)> {
    sqlx::query_as("SELECT rank, player_id, score FROM period_standings WHERE period_id = $1 ORDER BY rank")
        .bind(id)
        .fetch_all(stage.pool())
        .await
        .unwrap()
}

async fn scores(stage: &Stage, id: i64) -> Vec<(String, i64)> {
    sqlx::query_as("SELECT player_id, score FROM leaderboard_entries WHERE period_id = $1 ORDER BY player_id")
        .bind(id)
        .fetch_all(stage.pool())
        .await
        .unwrap()
}

async fn in_redis(stage: &Stage, generation: BoardGenerationId, period: Period) -> Vec<(String, i64)> {
    let board = BoardPeriod { generation, period, order: Order::Descending, tie_policy: TiePolicy::Ordinal };
    let page = stage.ranking.page(&board, 100, None, Direction::Forward).await.unwrap();
    page.entries.iter().map(|e| (e.player_id().to_owned(), e.standing.score)).collect()
}

fn owned(scores: &[(&str, i64)]) -> Vec<(String, i64)> {
    scores.iter().map(|(player, score)| ((*player).to_owned(), *score)).collect()
}

/// A daily board of which Monday is closed; it is Tuesday noon.
async fn with_a_closed_monday(over: Value) -> (Stage, StoredPeriod) {
    let stage = Stage::new("2026-11-23T12:00:00Z").await;
    let mut spec = json!({"reset": "daily", "operator": "incr"});
    spec.as_object_mut().unwrap().extend(over.as_object().unwrap().clone());
    stage.live("b", spec).await;
    stage
        .accept(&[
            stage.event("a", 5, "2026-11-23T10:00:00Z"),
            stage.event("b", 3, "2026-11-23T11:00:00Z"),
            stage.event("a", 2, "2026-11-24T01:00:00Z"),
        ])
        .await;
    stage.fold().await;
    stage.set_now("2026-11-24T12:00:00Z");
    assert_eq!(close(&stage).await, 1);
    let closed = listed(&stage, "b").await.into_iter().find(|p| p.closed).unwrap();
    assert_eq!(closed.period, monday());
    (stage, closed)
}

#[tokio::test]
async fn a_longer_schedule_counts_what_shorter_periods_closed() {
    let (stage, closed) = with_a_closed_monday(json!({})).await;
    let before = settled(&stage, closed.id).await;
    let weekly = edit(&stage, "b", json!({"reset": "weekly", "operator": "incr"})).await;
    let current = periods::named(stage.pool(), weekly, &week()).await.unwrap().unwrap();
    assert!(!current.closed);
    assert_eq!(scores(&stage, current.id).await, owned(&[("a", 7), ("b", 3)]), "all of the week");
    assert_eq!(in_redis(&stage, weekly, week()).await, owned(&[("a", 7), ("b", 3)]));
    // What comes now counts, and nothing is late.
    stage.accept(&[stage.event("c", 1, "2026-11-24T11:00:00Z")]).await;
    stage.fold().await;
    assert_eq!(scores(&stage, current.id).await.len(), 3);
    assert_eq!(stage.count("SELECT sum(late_count)::bigint FROM leaderboard_periods").await, 0);
    // Both live, and the closed one is as it was.
    let shown: Vec<_> = listed(&stage, "b").await.iter().map(|p| (p.period, p.closed)).collect();
    assert_eq!(shown, [(week(), false), (monday(), true)]);
    assert_eq!(settled(&stage, closed.id).await, before);
    let audit = audit_entries(stage.pool(), &stage.rules.board(weekly).unwrap()).await.unwrap().unwrap();
    assert_eq!((audit.computed, audit.differing), (3, 0), "{audit:?}");
}

#[tokio::test]
async fn a_shorter_schedule_and_back_leaves_what_is_final() {
    let (stage, closed) = with_a_closed_monday(json!({})).await;
    let before = settled(&stage, closed.id).await;
    edit(&stage, "b", json!({"reset": {"cron": "0 */6 * * *"}, "operator": "incr"})).await;
    assert_eq!(close(&stage).await, 2, "a part of Monday and one of Tuesday");
    let daily = edit(&stage, "b", json!({"reset": "daily", "operator": "incr"})).await;
    assert_eq!(close(&stage).await, 0, "Monday is closed");
    let of_monday = periods::named(stage.pool(), daily, &monday()).await.unwrap().unwrap();
    assert_eq!((of_monday.id, settled(&stage, closed.id).await), (closed.id, before));
    let shown = listed(&stage, "b").await;
    assert_eq!(shown.iter().filter(|p| p.closed).count(), 3);
    assert_eq!(shown.iter().filter(|p| !p.closed).count(), 1);
}

#[tokio::test]
async fn an_audit_finds_what_a_closed_period_took_from_a_longer_one() {
    let (stage, _) = with_a_closed_monday(json!({})).await;
    let weekly = edit(&stage, "b", json!({"reset": "weekly", "operator": "incr"})).await;
    // What an edit once did.
    sqlx::query("DELETE FROM leaderboard_entries WHERE period_id IN (SELECT id FROM leaderboard_periods WHERE generation_id = $1)")
        .bind(weekly.0)
        .execute(stage.pool())
        .await
        .unwrap();
    let audit = audit_entries(stage.pool(), &stage.rules.board(weekly).unwrap()).await.unwrap().unwrap();
    assert_eq!((audit.computed, audit.differing), (2, 2), "{audit:?}");
}

#[tokio::test]
async fn final_standings_outlive_an_edit_of_a_game_without_events() {
    let (stage, closed) = with_a_closed_monday(json!({})).await;
    let before = settled(&stage, closed.id).await;
    // What retention leaves of an off-season game.
    sqlx::query("DELETE FROM events").execute(stage.pool()).await.unwrap();
    let spec = Stage::spec("b", json!({"reset": "daily", "event_type": "next_season"}));
    assert_eq!(stage.apply(&spec, false).await.unwrap(), Applied::Recomputing);
    assert_eq!(stage.newest("b").await.1, "live", "there was nothing to compute");
    let shown = listed(&stage, "b").await;
    assert_eq!(shown.iter().map(|p| (p.id, p.closed)).collect::<Vec<_>>(), [(closed.id, true)]);
    let found = periods::by_id(stage.pool(), live(&stage, "b").await, closed.id).await.unwrap().unwrap();
    assert_eq!(found.order, Order::Descending);
    assert_eq!(settled(&stage, closed.id).await, before);
}

#[tokio::test]
async fn a_final_period_ranks_as_it_was_counted() {
    let (stage, closed) = with_a_closed_monday(json!({})).await;
    let turned = edit(&stage, "b", json!({"reset": "daily", "operator": "incr", "order": "ascending"})).await;
    let found = periods::by_id(stage.pool(), turned, closed.id).await.unwrap().unwrap();
    assert_eq!((found.order, found.in_redis), (Order::Descending, false));
    let current = listed(&stage, "b").await[0];
    assert_eq!((current.order, current.in_redis), (Order::Ascending, true));
}

#[tokio::test]
async fn what_became_final_during_a_recompute_stays_final() {
    let stage = Stage::new("2026-11-23T12:00:00Z").await;
    stage.live("b", json!({"reset": "daily"})).await;
    stage.accept(&[stage.event("a", 5, "2026-11-23T10:00:00Z")]).await;
    stage.fold().await;
    let longer = Stage::spec("b", json!({"reset": "daily", "grace_seconds": 172_800}));
    stage.apply(&longer, false).await.unwrap();
    let building = stage.newest("b").await.0;
    // In time for the new grace, and too late for the one that players see: the new one counts it for a while.
    let mut late = stage.event("b", 9, "2026-11-23T23:00:00Z");
    late.received_at = at("2026-11-24T11:00:00Z");
    stage.accept(&[late.clone()]).await;
    stage.fold().await;
    stage.set_now("2026-11-24T12:00:00Z");
    assert_eq!(close(&stage).await, 1);
    let closed = listed(&stage, "b").await[0];
    assert_eq!(settled(&stage, closed.id).await, [(1, "a".to_owned(), 5)]);
    stage.build(building).await;
    let shown: Vec<_> = listed(&stage, "b").await.iter().map(|p| (p.id, p.closed)).collect();
    assert_eq!(shown, [(closed.id, true)], "one Monday");
    let of_new: Vec<String> =
        redis::cmd("KEYS").arg(format!("{{sl:b3:{building}}}:*:rank")).query(&mut stage.redis.connection()).unwrap();
    assert_eq!(of_new, Vec::<String>::new(), "nothing of it is left in Redis");
    assert_eq!(stage.entries(building).await, []);
    // Whoever comes now is counted as late, in the one that there is, once.
    let before = listed(&stage, "b").await[0].late_count;
    late.event_id = uuid::Uuid::from_u128(77);
    stage.accept(&[late]).await;
    stage.fold().await;
    let after = listed(&stage, "b").await;
    assert_eq!((after.len(), after[0].late_count), (1, before + 1));
    assert_eq!(settled(&stage, closed.id).await, [(1, "a".to_owned(), 5)]);
}

/// In one statement, under the game's lock, the entries of a large season were never removed within a statement's time,
/// and other games' events waited behind the attempts.
#[tokio::test]
async fn the_entries_of_a_period_that_became_final_go_in_chunks_and_without_the_games_lock() {
    let stage = Stage::new("2026-11-23T12:00:00Z").await;
    stage.live("b", json!({"reset": "daily"})).await;
    stage.accept(&[stage.event("a", 5, "2026-11-23T10:00:00Z")]).await;
    stage.fold().await;
    stage.apply(&Stage::spec("b", json!({"reset": "daily", "grace_seconds": 172_800})), false).await.unwrap();
    let building = stage.newest("b").await.0;
    let events: Vec<_> = ["a", "b", "c"].map(|player| stage.event(player, 6, "2026-11-23T11:00:00Z")).into();
    stage.accept(&events).await;
    stage.fold().await;
    stage.set_now("2026-11-24T12:00:00Z");
    assert_eq!(close(&stage).await, 1);
    assert_eq!(stage.entries(building).await.len(), 3);
    let mut transaction = stage.pool().begin().await.unwrap();
    assert_eq!(final_periods::remove_some_entries(&mut transaction, building, 2).await.unwrap(), 2);
    transaction.commit().await.unwrap();
    assert_eq!(stage.entries(building).await.len(), 1);
    // Whoever locks a row of a table holds this lock of it.
    let mut superuser = stage.database.superuser().await;
    sqlx::raw_sql(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             IF EXISTS (SELECT 1 FROM pg_locks WHERE pid = pg_backend_pid() AND relation = 'games'::regclass
                                                 AND mode = 'RowShareLock') THEN
                 RAISE EXCEPTION 'an entry is removed under the lock of a game';
             END IF;
             RETURN OLD;
         END $$;
         CREATE TRIGGER refuse BEFORE DELETE ON leaderboard_entries FOR EACH ROW EXECUTE FUNCTION refuse()",
    )
    .execute(&mut superuser)
    .await
    .unwrap();
    stage.build(building).await;
    assert_eq!(stage.entries(building).await, []);
    assert_eq!(listed(&stage, "b").await.len(), 1, "one Monday");
}

#[tokio::test]
async fn a_swap_does_not_wait_for_a_period_to_be_ranked() {
    let stage = Stage::new("2026-11-23T12:00:00Z").await;
    let old = stage.live("b", json!({"reset": "daily"})).await;
    stage.accept(&[stage.event("a", 5, "2026-11-23T10:00:00Z"), stage.event("b", 7, "2026-11-23T10:00:00Z")]).await;
    stage.fold().await;
    stage.set_now("2026-11-24T12:00:00Z");
    // Cron died between freezing and ranking.
    let of_monday = listed(&stage, "b").await[0];
    let mut connection = stage.pool().acquire().await.unwrap();
    assert!(period_closing::freeze(&mut connection, of_monday.id, &[]).await.unwrap());
    let new = edit(&stage, "b", json!({"reset": "daily", "order": "ascending"})).await;
    assert_ne!(new, old.generation.id);
    assert_eq!(close(&stage).await, 1);
    let expected = [(1, "b".to_owned(), 7), (2, "a".to_owned(), 5)];
    assert_eq!(settled(&stage, of_monday.id).await, expected, "by the definition that froze it");
}

#[tokio::test]
async fn nothing_of_a_replaced_generation_is_frozen() {
    let stage = Stage::new("2026-11-23T12:00:00Z").await;
    stage.live("b", json!({"reset": "daily"})).await;
    stage.accept(&[stage.event("a", 5, "2026-11-23T10:00:00Z")]).await;
    stage.fold().await;
    // The closing of periods has listed what is due, and then an edit is swapped in.
    let due = listed(&stage, "b").await[0];
    edit(&stage, "b", json!({"reset": "daily", "operator": "incr"})).await;
    let mut connection = stage.pool().acquire().await.unwrap();
    assert!(!period_closing::freeze(&mut connection, due.id, &[]).await.unwrap());
    assert_eq!(stage.count("SELECT count(*) FROM leaderboard_periods WHERE state = 'closed'").await, 0);
}
