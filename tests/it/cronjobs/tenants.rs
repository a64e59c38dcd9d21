//! One game cannot hold up, slow, fill or blind another: each test has a game that does something, beside one that must
//! not notice.

use scoreline::aggregator::close_periods::{LARGE, close_due, rank_large, unpublish_closed};
use scoreline::aggregator::retention::clean_up;
use scoreline::domain::fact::Fact;
use scoreline::domain::ids::{BoardGenerationId, GameId};
use scoreline::domain::packed_facts::FactPacker;
use scoreline::store::{facts, period_closing};
use serde_json::{Value, json};
use uuid::Uuid;

use super::stage::{Stage, at};

const NOON: &str = "2026-11-20T12:00:00Z";

/// A game beside the stage's own.
pub async fn game(stage: &Stage, slug: &str) -> GameId {
    let id = sqlx::query_scalar("INSERT INTO games (slug, name) VALUES ($1, $1) RETURNING id").bind(slug);
    GameId(id.fetch_one(stage.pool()).await.unwrap())
}

/// A live board, without a word to anybody.
pub async fn board(stage: &Stage, game: GameId, slug: &str, over: Value) -> BoardGenerationId {
    let mut spec = serde_json::to_value(Stage::spec(slug, json!({"reset": "daily"}))).unwrap();
    spec.as_object_mut().unwrap().extend(over.as_object().unwrap().clone());
    let id = sqlx::query_scalar(
        "WITH l AS (INSERT INTO leaderboards (game_id, slug, spec) VALUES ($1, $2, $3::text::jsonb) RETURNING id)
         INSERT INTO leaderboard_generations (leaderboard_id, since_generation, spec, state)
         SELECT id, 1, $3::text::jsonb, 'live' FROM l RETURNING id",
    );
    let id = id.bind(game.0).bind(slug).bind(spec.to_string()).fetch_one(stage.pool()).await.unwrap();
    stage.rules.reload().await.unwrap();
    BoardGenerationId(id)
}

/// A day's period that ended an hour ago, its grace included.
async fn over(stage: &Stage, generation: BoardGenerationId) -> i64 {
    periods(stage, generation, 1).await
}

/// Periods of a minute each, of which the last ended an hour ago. Answers the id of one.
async fn periods(stage: &Stage, generation: BoardGenerationId, count: i32) -> i64 {
    sqlx::query_scalar(
        "WITH made AS (
             INSERT INTO leaderboard_periods (generation_id, starts_at, ends_at)
             SELECT $1, t - interval '1 minute', t
               FROM generate_series(0, $3 - 1) n,
                    LATERAL (SELECT $2 - interval '1 hour' - n * interval '1 minute' AS t) AS ends
             RETURNING id)
         SELECT min(id) FROM made",
    )
    .bind(generation.0)
    .bind(at(NOON))
    .bind(count)
    .fetch_one(stage.pool())
    .await
    .unwrap()
}

async fn dead_letter(stage: &Stage, game: Option<GameId>, received_at: &str) {
    sqlx::query(
        "INSERT INTO dead_letters (id, job_id, queue, lane, kind, game_id, reason, error, attempts, crashes, payload,
                                   received_at)
         VALUES (gen_random_uuid(), gen_random_uuid()::text, 'q0', 'high', 'persist-events', $1, 'r', 'e', 1, 0, '', $2)",
    )
    .bind(game.map(|game| game.0))
    .bind(at(received_at))
    .execute(stage.pool())
    .await
    .unwrap();
}

async fn state(stage: &Stage, period: i64) -> String {
    sqlx::query_scalar(
        "SELECT state || CASE WHEN closed_at IS NULL THEN '' ELSE ' and ranked' END
                          FROM leaderboard_periods WHERE id = $1",
    )
    .bind(period)
    .fetch_one(stage.pool())
    .await
    .unwrap()
}

const CLOSED: &str = "closed and ranked";

/// What is said of a period: what it waits for and what it was closed over.
async fn note(stage: &Stage, period: i64) -> (Vec<String>, Vec<String>) {
    let note = period_closing::notes(stage.pool(), &[period]).await.unwrap().remove(&period).unwrap_or_default();
    (note.waits_for, note.closed_over)
}

/// Two games with a period each that is over.
async fn beside() -> (Stage, GameId, [i64; 2]) {
    let stage = Stage::new(NOON).await;
    let noisy = game(&stage, "noisy").await;
    let theirs = over(&stage, board(&stage, noisy, "a", json!({})).await).await;
    let ours = over(&stage, board(&stage, stage.game, "b", json!({})).await).await;
    (stage, noisy, [theirs, ours])
}

fn wait_for_ever(stage: &mut Stage) {
    let mut context = (*stage.context).clone();
    context.retention.close_wait_seconds = 0;
    stage.context = std::sync::Arc::new(context);
}

#[tokio::test]
async fn a_dead_letter_holds_the_periods_of_its_own_game_only() {
    let (stage, noisy, [theirs, ours]) = beside().await;
    dead_letter(&stage, Some(noisy), "2026-11-20T10:59:30Z").await;
    let tenure = stage.tenure("job-close-periods").await;
    assert_eq!(close_due(&stage.context, &tenure).await.unwrap(), 1);
    assert_eq!((state(&stage, theirs).await.as_str(), state(&stage, ours).await.as_str()), ("open", CLOSED));
    assert_eq!(note(&stage, theirs).await, (vec!["dead_letters".to_owned()], vec![]), "people are told why");
    assert_eq!(note(&stage, ours).await, (vec![], vec![]));
}

#[tokio::test]
async fn a_period_closes_over_an_undecided_letter_in_the_end() {
    let (stage, noisy, [theirs, ours]) = beside().await;
    // Of no game: it may be anybody's.
    dead_letter(&stage, None, "2026-11-20T10:59:30Z").await;
    let tenure = stage.tenure("job-close-periods").await;
    stage.set_now("2026-11-20T12:10:00Z");
    assert_eq!(close_due(&stage.context, &tenure).await.unwrap(), 0, "an hour after end and grace has not passed");
    stage.set_now("2026-11-20T12:10:01Z");
    assert_eq!(close_due(&stage.context, &tenure).await.unwrap(), 2);
    for period in [theirs, ours] {
        assert_eq!(note(&stage, period).await, (vec![], vec!["dead_letters".to_owned()]));
    }
    // What the letter held is stored when somebody replays it, and counts as late.
    let _ = noisy;
    let live = stage.live("c", json!({"reset": "daily"})).await;
    sqlx::query("UPDATE leaderboard_periods SET generation_id = $1, starts_at = '2026-11-20', ends_at = '2026-11-21' WHERE id = $2")
        .bind(live.generation.id.0)
        .bind(ours)
        .execute(stage.pool())
        .await
        .unwrap();
    stage.accept(&[stage.event("p", 5, "2026-11-20T10:59:30Z")]).await;
    stage.fold().await;
    let late = sqlx::query_scalar::<_, i64>("SELECT late_count FROM leaderboard_periods WHERE id = $1").bind(ours);
    assert_eq!(late.fetch_one(stage.pool()).await.unwrap(), 1);
    assert!(stage.entries(live.generation.id).await.is_empty());
    assert_eq!(stage.count("SELECT count(*) FROM events").await, 1);
}

#[tokio::test]
async fn a_wait_of_zero_seconds_is_a_wait_for_ever() {
    let (mut stage, noisy, [theirs, _]) = beside().await;
    dead_letter(&stage, Some(noisy), "2026-11-20T10:59:30Z").await;
    wait_for_ever(&mut stage);
    stage.set_now("2027-06-01T00:00:00Z");
    let tenure = stage.tenure("job-close-periods").await;
    assert_eq!(close_due(&stage.context, &tenure).await.unwrap(), 1);
    assert_eq!(state(&stage, theirs).await, "open");
}

/// A row of facts, in this shard and for the periods of this game.
async fn waiting_facts(stage: &Stage, generation: BoardGenerationId, holds: Option<GameId>, set_aside: bool) {
    let mut packer = FactPacker::default();
    let received = at("2026-11-20T10:59:30Z");
    let fact = Fact {
        generation,
        period: scoreline::domain::period::Period { starts_at: received, ends_at: None },
        player_id: "p",
        score: 1,
        subscore: 0,
        occurred_at: received,
        event_id: Uuid::nil(),
        received_at: received,
        metadata: None,
    };
    packer.push(&fact, holds);
    let mut rows = packer.finish();
    for row in &mut rows {
        row.shard = if set_aside { -1 - row.shard } else { row.shard };
    }
    facts::insert(&mut stage.pool().acquire().await.unwrap(), &rows).await.unwrap();
}

#[tokio::test]
async fn facts_hold_their_own_game_and_a_recomputes_hold_nobody() {
    let (stage, noisy, [theirs, ours]) = beside().await;
    let generation = BoardGenerationId(1);
    waiting_facts(&stage, generation, Some(noisy), false).await;
    waiting_facts(&stage, generation, None, false).await;
    let tenure = stage.tenure("job-close-periods").await;
    assert_eq!(close_due(&stage.context, &tenure).await.unwrap(), 1);
    assert_eq!((state(&stage, theirs).await.as_str(), state(&stage, ours).await.as_str()), ("open", CLOSED));
    assert_eq!(note(&stage, theirs).await.0, ["facts"]);
    // They move by themselves, so they are waited for.
    stage.set_now("2026-11-27T12:00:00Z");
    assert_eq!(close_due(&stage.context, &tenure).await.unwrap(), 0);
    sqlx::query("DELETE FROM score_facts WHERE games <> '{}'").execute(stage.pool()).await.unwrap();
    assert_eq!(close_due(&stage.context, &tenure).await.unwrap(), 1);
    // A program of before did not say whose they are.
    let later = over(&stage, board(&stage, stage.game, "later", json!({})).await).await;
    sqlx::query("UPDATE score_facts SET games = NULL").execute(stage.pool()).await.unwrap();
    assert_eq!(close_due(&stage.context, &tenure).await.unwrap(), 0);
    assert_eq!(note(&stage, later).await.0, ["facts"]);
}

#[tokio::test]
async fn facts_set_aside_hold_their_own_game_for_a_bounded_time() {
    let (stage, noisy, [theirs, ours]) = beside().await;
    waiting_facts(&stage, BoardGenerationId(1), Some(noisy), true).await;
    let tenure = stage.tenure("job-close-periods").await;
    assert_eq!(close_due(&stage.context, &tenure).await.unwrap(), 1);
    assert_eq!((state(&stage, theirs).await.as_str(), state(&stage, ours).await.as_str()), ("open", CLOSED));
    stage.set_now("2026-11-20T12:10:01Z");
    assert_eq!(close_due(&stage.context, &tenure).await.unwrap(), 1);
    assert_eq!(note(&stage, theirs).await, (vec![], vec!["set_aside_facts".to_owned()]));
}

#[tokio::test]
async fn however_many_facts_of_a_game_are_set_aside_they_hold_no_other() {
    let (stage, noisy, [theirs, ours]) = beside().await;
    waiting_facts(&stage, BoardGenerationId(1), Some(noisy), true).await;
    let many = "INSERT INTO score_facts (shard, fact_count, min_received_at, games, facts)
                SELECT shard, fact_count, min_received_at, games, facts FROM score_facts, generate_series(1, 10000)";
    sqlx::query(many).execute(stage.pool()).await.unwrap();
    let tenure = stage.tenure("job-close-periods").await;
    assert_eq!(close_due(&stage.context, &tenure).await.unwrap(), 1);
    assert_eq!((state(&stage, theirs).await.as_str(), state(&stage, ours).await.as_str()), ("open", CLOSED));
}

#[tokio::test]
async fn one_clock_that_is_ahead_closes_nothing_over_what_nobody_decided() {
    use std::sync::atomic::Ordering;
    let (stage, noisy, [theirs, _]) = beside().await;
    dead_letter(&stage, Some(noisy), "2026-11-20T10:59:30Z").await;
    let tenure = stage.tenure("job-close-periods").await;
    assert_eq!(close_due(&stage.context, &tenure).await.unwrap(), 1);
    stage.set_now("2027-06-01T00:00:00Z");
    for clock in [&stage.queue_clock, &stage.database_clock] {
        clock.store(at(NOON).0, Ordering::SeqCst);
        assert_eq!(close_due(&stage.context, &tenure).await.unwrap(), 0);
        clock.store(0, Ordering::SeqCst);
    }
    assert_eq!(close_due(&stage.context, &tenure).await.unwrap(), 1);
    assert_eq!(state(&stage, theirs).await, CLOSED);
}

#[tokio::test]
async fn a_long_grace_and_periods_that_wait_stop_no_other_game() {
    let mut stage = Stage::new(NOON).await;
    wait_for_ever(&mut stage);
    let noisy = game(&stage, "noisy").await;
    // Over, but in their grace; and past it, held by a letter: more than one look takes of either.
    periods(&stage, board(&stage, noisy, "grace", json!({"grace_seconds": 2_678_400})).await, 6_000).await;
    for n in 0..120 {
        periods(&stage, board(&stage, noisy, &format!("held-{n}"), json!({})).await, 60).await;
    }
    dead_letter(&stage, Some(noisy), "2026-11-20T01:00:00Z").await;
    let ours = over(&stage, board(&stage, stage.game, "b", json!({})).await).await;
    let tenure = stage.tenure("job-close-periods").await;
    assert_eq!(close_due(&stage.context, &tenure).await.unwrap(), 1);
    assert_eq!(state(&stage, ours).await, CLOSED);
}

#[tokio::test]
async fn a_period_that_cannot_be_closed_stops_no_other() {
    let (stage, noisy, [theirs, ours]) = beside().await;
    // A definition of a newer program: nobody knows how it ranks.
    sqlx::query(
        "UPDATE leaderboard_generations g SET spec = g.spec || '{\"order\": \"sideways\"}' FROM leaderboards l
          WHERE l.id = g.leaderboard_id AND l.game_id = $1",
    )
    .bind(noisy.0)
    .execute(stage.pool())
    .await
    .unwrap();
    let tenure = stage.tenure("job-close-periods").await;
    assert!(close_due(&stage.context, &tenure).await.is_err(), "it is said");
    assert_eq!((state(&stage, theirs).await.as_str(), state(&stage, ours).await.as_str()), ("open", CLOSED));
    assert_eq!(note(&stage, theirs).await.0, ["failing"]);
}

/// So many entries of a period.
async fn entries(stage: &Stage, period: i64, count: i64) {
    sqlx::query(
        "INSERT INTO leaderboard_entries (period_id, player_id, score, subscore, reached_at, event_id, plays, version)
         SELECT $1, 'p-' || n, n, 0, '2026-11-20', gen_random_uuid(), 1, 1 FROM generate_series(1, $2) n",
    )
    .bind(period)
    .bind(count)
    .execute(stage.pool())
    .await
    .unwrap();
}

#[tokio::test]
async fn a_large_period_is_ranked_beside_the_others() {
    let (stage, _, [theirs, ours]) = beside().await;
    entries(&stage, theirs, LARGE + 1).await;
    entries(&stage, ours, 10).await;
    let tenure = stage.tenure("job-close-periods").await;
    assert_eq!(close_due(&stage.context, &tenure).await.unwrap(), 1);
    assert_eq!(state(&stage, ours).await, CLOSED);
    assert_eq!(state(&stage, theirs).await, "closed", "frozen in time, whenever it is ranked");
    // Each look passes it by, until it is ranked elsewhere.
    assert_eq!(close_due(&stage.context, &tenure).await.unwrap(), 0);
    let ranking = stage.tenure("job-rank-large-periods").await;
    assert_eq!(rank_large(&stage.context, &ranking).await.unwrap(), 1);
    assert_eq!(state(&stage, theirs).await, CLOSED);
    assert_eq!(stage.count("SELECT count(*) FROM period_standings").await, LARGE + 1 + 10);
    assert_eq!(rank_large(&stage.context, &ranking).await.unwrap(), 0);
}

#[tokio::test]
async fn of_large_periods_one_of_each_game_comes_first_and_the_smaller_before_the_larger() {
    let stage = Stage::new(NOON).await;
    let noisy = game(&stage, "noisy").await;
    let mut theirs = Vec::new();
    for n in 0..3 {
        let period = over(&stage, board(&stage, noisy, &format!("large-{n}"), json!({})).await).await;
        entries(&stage, period, 7).await;
        theirs.push(period);
    }
    let ours = over(&stage, board(&stage, stage.game, "b", json!({})).await).await;
    entries(&stage, ours, 5).await;
    let small = over(&stage, board(&stage, stage.game, "c", json!({})).await).await;
    entries(&stage, small, 3).await;
    sqlx::query("UPDATE leaderboard_periods SET state = 'closed'").execute(stage.pool()).await.unwrap();
    let found = period_closing::large(&mut stage.pool().acquire().await.unwrap(), 3).await.unwrap();
    let order: Vec<i64> = found.into_iter().map(|(period, _)| period).collect();
    assert_eq!(order, [ours, theirs[0], theirs[1], theirs[2]]);
}

/// Makes every command on this board's list of periods fail.
fn damage(stage: &Stage, generation: BoardGenerationId) {
    let key = format!("{{sl:b3:{generation}}}:periods");
    redis::cmd("SET").arg(key).arg("no set").exec(&mut stage.redis.connection()).unwrap();
}

#[tokio::test]
async fn a_period_that_redis_keeps_stops_no_other_from_leaving() {
    let stage = Stage::new(NOON).await;
    let noisy = game(&stage, "noisy").await;
    let damaged = board(&stage, noisy, "a", json!({})).await;
    for generation in [damaged, board(&stage, stage.game, "b", json!({})).await] {
        over(&stage, generation).await;
    }
    sqlx::query("UPDATE leaderboard_periods SET state = 'closed', closed_at = '2026-11-01'")
        .execute(stage.pool())
        .await
        .unwrap();
    damage(&stage, damaged);
    let tenure = stage.tenure("job-unpublish-closed").await;
    assert!(unpublish_closed(&stage.context, &tenure).await.is_err(), "it is said");
    let left = "SELECT count(*) FROM leaderboard_periods WHERE unpublished_at IS NULL AND generation_id = 1";
    assert_eq!(stage.count(left).await, 1);
    assert_eq!(stage.count("SELECT count(*) FROM leaderboard_periods WHERE unpublished_at IS NOT NULL").await, 1);
}

#[tokio::test]
async fn deleted_boards_with_an_archive_do_not_stop_the_clean_up_of_others() {
    let stage = Stage::new(NOON).await;
    let noisy = game(&stage, "noisy").await;
    let mut first = None;
    for n in 0..130 {
        let generation = board(&stage, noisy, &format!("season-{n}"), json!({})).await;
        over(&stage, generation).await;
        first.get_or_insert(generation);
    }
    sqlx::query("UPDATE leaderboard_periods SET state = 'closed', closed_at = '2026-11-01'")
        .execute(stage.pool())
        .await
        .unwrap();
    // One of which Redis keeps something, among the first.
    damage(&stage, first.unwrap());
    let ours = board(&stage, stage.game, "b", json!({})).await;
    over(&stage, ours).await;
    sqlx::query("UPDATE leaderboard_generations SET state = 'retired', retired_at = now() - interval '1 hour'")
        .execute(stage.pool())
        .await
        .unwrap();
    let tenure = stage.tenure("job-clean-up").await;
    assert!(clean_up(&stage.context, &tenure).await.is_err(), "it is said");
    let left = "SELECT count(*) FROM leaderboard_generations";
    assert_eq!(stage.count(left).await, 130, "the archives stay, ours is gone");
    let looked_at_again = "SELECT count(*) FROM leaderboard_generations WHERE cleaned_at IS NULL";
    assert_eq!(stage.count(looked_at_again).await, 1, "nobody looks at them again, but for the one that failed");
}
