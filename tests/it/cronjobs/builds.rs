//! No game's board waits for what is recomputed for another.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use scoreline::aggregator::builds::{POLL, run};
use scoreline::aggregator::retention::drop_old_months;
use scoreline::aggregator::schedule::Context;
use scoreline::domain::ids::BoardGenerationId;
use scoreline::services::audit::entries::audit_entries;
use scoreline::store::{partitions, recompute};
use serde_json::json;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::retention::with_history;
use super::stage::{Stage, at};
use crate::support::eventually;

const NOON: &str = "2026-11-20T12:00:00Z";
const SOON: Duration = Duration::from_secs(60);

/// A game with one stored score.
async fn noisy(stage: &Stage, name: &str) -> i32 {
    sqlx::query_scalar(
        "WITH g AS (INSERT INTO games (slug, name) VALUES ($1, $1) RETURNING id),
         e AS (INSERT INTO events (game_id, event_id, occurred_at, received_at, definitions_generation, from_server, type,
                                   player_id, payload)
               SELECT id, gen_random_uuid(), '2026-11-20', '2026-11-20', 1, false, 'game_ended', 'p', '{\"score\": 7}' FROM g)
         SELECT id FROM g",
    )
    .bind(name)
    .fetch_one(stage.pool())
    .await
    .unwrap()
}

/// A board that is being built.
async fn building(stage: &Stage, game: i32, slug: &str) -> BoardGenerationId {
    let spec = serde_json::to_string(&Stage::spec(slug, json!({}))).unwrap();
    let id = sqlx::query_scalar(
        "WITH l AS (INSERT INTO leaderboards (game_id, slug, spec) VALUES ($1, $2, $3::text::jsonb) RETURNING id)
         INSERT INTO leaderboard_generations (leaderboard_id, since_generation, spec, state)
         SELECT id, 2, $3::text::jsonb, 'building' FROM l RETURNING id",
    );
    BoardGenerationId(id.bind(game).bind(slug).bind(spec).fetch_one(stage.pool()).await.unwrap())
}

async fn is_live(stage: &Stage, generation: BoardGenerationId) -> bool {
    let live = sqlx::query_scalar("SELECT state = 'live' FROM leaderboard_generations WHERE id = $1");
    live.bind(generation.0).fetch_one(stage.pool()).await.unwrap()
}

/// Builds until it is told to stop.
fn start(stage: &Stage) -> (CancellationToken, JoinHandle<()>) {
    let stop = CancellationToken::new();
    let context = Arc::new(Context { stop: stop.clone(), ..(*stage.context).clone() });
    (stop, tokio::spawn(async move { run(&context, POLL).await }))
}

/// A board of the stage's own game, which has events, of which none counts.
async fn ours(stage: &Stage) -> BoardGenerationId {
    let mut login = stage.event("a", 1, "2026-11-20T00:00:00Z");
    login.event_type = "login".into();
    stage.accept(&[login]).await;
    stage.create("ours", json!({})).await.id
}

#[tokio::test]
async fn a_new_board_waits_neither_for_the_recomputes_of_other_games_nor_for_their_facts() {
    let stage = Stage::new(NOON).await;
    // More games than are built at once. Nobody folds, so each of their builds lasts.
    let mut theirs = Vec::new();
    for n in 0..12 {
        let game = noisy(&stage, &format!("noisy-{n}")).await;
        theirs.push(building(&stage, game, "large").await);
    }
    // And more facts than a scan adds to.
    let backlog = "INSERT INTO score_facts (shard, fact_count, min_received_at, games, facts)
                   VALUES (0, 1000000, '2026-11-20', '{1}', '')";
    sqlx::query(backlog).execute(stage.pool()).await.unwrap();
    let ours = ours(&stage).await;
    let (stop, running) = start(&stage);
    eventually("ours is live", SOON, async || is_live(&stage, ours).await).await;
    for generation in &theirs {
        assert!(!is_live(&stage, *generation).await, "its facts are not folded");
    }
    // Nothing was lost by making room.
    sqlx::query("DELETE FROM score_facts WHERE facts = ''").execute(stage.pool()).await.unwrap();
    stage.rules.reload().await.unwrap();
    let done = AtomicBool::new(false);
    let all_live = async {
        let all = async || {
            for generation in &theirs {
                if !is_live(&stage, *generation).await {
                    return false;
                }
            }
            true
        };
        eventually("all are live", SOON, all).await;
        done.store(true, Ordering::SeqCst);
    };
    tokio::join!(all_live, stage.fold_until(&done));
    for generation in theirs {
        let entries: Vec<String> = stage.entries(generation).await.into_iter().map(|entry| entry.2).collect();
        assert_eq!(entries, ["7"]);
    }
    stop.cancel();
    running.await.unwrap();
}

#[tokio::test]
async fn a_game_builds_one_board_at_a_time() {
    let stage = Stage::new(NOON).await;
    let game = noisy(&stage, "noisy").await;
    for n in 0..12 {
        building(&stage, game, &format!("large-{n}")).await;
    }
    let ours = ours(&stage).await;
    let (stop, running) = start(&stage);
    eventually("ours is live", SOON, async || is_live(&stage, ours).await).await;
    let at_work = stage
        .count("SELECT count(*) FROM leases WHERE name LIKE 'recompute-%' AND expires_at > clock_timestamp()")
        .await;
    assert!(at_work <= 2, "theirs, and perhaps ours, which is about to sign off: {at_work}");
    stop.cancel();
    running.await.unwrap();
}

/// Makes statements that write more than so many facts, or rows of the baseline, take too long.
async fn limit(stage: &Stage, most: i64) {
    let statements = format!(
        "CREATE FUNCTION too_much() RETURNS trigger LANGUAGE plpgsql AS $$
         DECLARE written bigint;
         BEGIN
             IF TG_TABLE_NAME = 'score_facts' THEN SELECT max(fact_count) INTO written FROM fresh;
             ELSE SELECT count(*) INTO written FROM fresh; END IF;
             IF written > {most} THEN RAISE EXCEPTION 'canceling statement' USING ERRCODE = '57014'; END IF;
             RETURN NULL;
         END $$;
         CREATE TRIGGER too_much AFTER INSERT ON score_facts REFERENCING NEW TABLE AS fresh
             FOR EACH STATEMENT EXECUTE FUNCTION too_much();
         CREATE TRIGGER too_much AFTER INSERT ON entry_baseline REFERENCING NEW TABLE AS fresh
             FOR EACH STATEMENT EXECUTE FUNCTION too_much();"
    );
    sqlx::raw_sql(sqlx::AssertSqlSafe(statements)).execute(&mut stage.database.owner().await).await.unwrap();
}

#[tokio::test]
async fn chunks_of_a_recompute_and_of_the_baseline_that_take_too_long_are_halved() {
    let stage = Stage::new(NOON).await;
    partitions::ensure(stage.pool(), at("2026-01-01T00:00:00Z"), at("2026-01-31T00:00:00Z")).await.unwrap();
    let score = |n: i64| stage.event(&format!("p-{}", n % 80), n, "2026-01-10T00:00:00Z");
    stage.accept(&(0..600).map(score).collect::<Vec<_>>()).await;
    limit(&stage, 25).await;
    // From events; then from what the events have left.
    let live = stage.live("sum", json!({"operator": "incr"})).await;
    let before = stage.entries(live.generation.id).await;
    assert_eq!(before.len(), 80);
    assert_eq!(before.iter().map(|entry| entry.2.parse::<i64>().unwrap()).sum::<i64>(), 599 * 300);
    let tenure = stage.tenure("job-drop-old-months").await;
    assert_eq!(drop_old_months(&stage.context, &tenure).await.unwrap(), 1);
    assert_eq!(stage.count("SELECT count(*) FROM entry_baseline").await, 80);
    let mut transaction = stage.pool().begin().await.unwrap();
    let again = recompute::begin(&mut transaction, live.generation.leaderboard_id).await.unwrap();
    transaction.commit().await.unwrap();
    stage.build(again.id).await;
    assert_eq!(stage.entries(again.id).await, before);
}

/// A build that cannot even begin, because no program here reads its definition.
#[tokio::test]
async fn a_game_that_is_built_for_ever_keeps_no_month_but_those_of_its_own_events() {
    let stage = Stage::new("2026-11-21T00:00:00Z").await;
    let boards = with_history(&stage).await;
    for statement in [
        "INSERT INTO games (slug, name) VALUES ('noisy', 'Noisy')",
        "INSERT INTO leaderboards (game_id, slug, spec) SELECT id, 'new', '{}' FROM games WHERE slug = 'noisy'",
        "INSERT INTO leaderboard_generations (leaderboard_id, since_generation, spec, state)
         SELECT id, 2, '{}', 'building' FROM leaderboards WHERE slug = 'new'",
        "INSERT INTO events (game_id, event_id, occurred_at, received_at, definitions_generation, from_server, type, player_id,
                             payload)
         SELECT id, gen_random_uuid(), '2026-02-10', '2026-02-10', 1, false, 'game_ended', 'p', '{\"score\": 7}'
           FROM games WHERE slug = 'noisy'",
    ] {
        sqlx::query(statement).execute(stage.pool()).await.unwrap();
    }
    let tenure = stage.tenure("job-drop-old-months").await;
    assert_eq!(drop_old_months(&stage.context, &tenure).await.unwrap(), 2, "January and March");
    assert_eq!(drop_old_months(&stage.context, &tenure).await.unwrap(), 0, "February waits for who can read the board");
    for board in &boards {
        assert_eq!(audit_entries(stage.pool(), board).await.unwrap().unwrap().differing, 0);
    }
}
