//! What counts while a month is half in the baseline (docs/rules.md#counted-before-it-is-dropped).

use scoreline::aggregator::baseline::{Step, fold_chunk};
use scoreline::aggregator::retention::drop_old_months;
use scoreline::domain::ids::{BoardGenerationId, GameId};
use scoreline::domain::month::Month;
use scoreline::services::audit::entries::audit_entries;
use scoreline::store::event_scan::Pace;
use scoreline::store::leaderboards::Applied;
use scoreline::store::recompute;
use serde_json::json;

use super::retention::with_history;
use super::stage::{Stage, at};
use super::tenants;

const NOW: &str = "2026-11-21T00:00:00Z";

fn january() -> Month {
    Month::of(at("2026-01-15T00:00:00Z"))
}

/// Has so many of January's sixty events in the baseline, in the order of their ids.
async fn fold_some(stage: &Stage, events: i64) -> Step {
    let tenure = stage.tenure("job-drop-old-months").await;
    let step = fold_chunk(&stage.context, &tenure, january(), &mut Pace::new(events)).await.unwrap();
    tenure.sign_off().await;
    step
}

async fn drop_months(stage: &Stage) -> u64 {
    let tenure = stage.tenure("job-drop-old-months").await;
    let dropped = drop_old_months(&stage.context, &tenure).await.unwrap();
    tenure.sign_off().await;
    dropped
}

async fn differing(stage: &Stage, generation: BoardGenerationId) -> u64 {
    let board = stage.rules.board(generation).unwrap();
    audit_entries(stage.pool(), &board).await.unwrap().unwrap().differing
}

/// It is begun and waits to be built.
async fn recompute_again(stage: &Stage, slug: &str) -> BoardGenerationId {
    let (live, _) = stage.newest(slug).await;
    let leaderboard = stage.rules.board(live).unwrap().generation.leaderboard_id;
    let mut transaction = stage.pool().begin().await.unwrap();
    let begun = recompute::begin(&mut transaction, leaderboard).await.unwrap().id;
    transaction.commit().await.unwrap();
    stage.rules.reload().await.unwrap();
    begun
}

#[tokio::test]
async fn a_board_that_is_made_meanwhile_counts_all_that_is_stored() {
    let stage = Stage::new(NOW).await;
    let boards = with_history(&stage).await;
    assert_eq!(fold_some(&stage, 20).await, Step::More);
    let mut made = Vec::new();
    for (slug, over, like) in [
        ("best-too", json!({"metadata": "/level"}), &boards[0]),
        ("sum-too", json!({"operator": "incr"}), &boards[1]),
        ("latest-too", json!({"operator": "set", "order": "ascending"}), &boards[2]),
    ] {
        let whole = stage.entries(like.generation.id).await;
        assert_eq!(whole.len(), 7);
        let board = stage.live(slug, over).await.generation.id;
        assert_eq!(stage.entries(board).await, whole, "{slug}");
        assert_eq!(differing(&stage, board).await, 0, "{slug}");
        made.push((slug, board, whole));
    }
    // What was read twice, for the entries and for the baseline, counts once when its events are gone.
    assert_eq!(drop_months(&stage).await, 3);
    for (slug, board, whole) in made {
        assert_eq!(differing(&stage, board).await, 0, "{slug}");
        let again = recompute_again(&stage, slug).await;
        stage.build(again).await;
        assert_eq!(stage.entries(again).await, whole, "{slug}");
    }
}

#[tokio::test]
async fn an_edit_meanwhile_that_the_baseline_does_not_survive_counts_all_that_is_stored() {
    let stage = Stage::new(NOW).await;
    let boards = with_history(&stage).await;
    assert_eq!(fold_some(&stage, 20).await, Step::More);
    let edited = Stage::spec("sum", json!({"metadata": "/level"}));
    assert_eq!(stage.apply(&edited, false).await.unwrap(), Applied::Recomputing);
    let (building, _) = stage.newest("sum").await;
    // It has still to read what others have in the baseline.
    assert_eq!(fold_some(&stage, 20).await, Step::Recomputing);
    stage.build(building).await;
    let best = stage.entries(boards[0].generation.id).await;
    assert_eq!(stage.entries(building).await, best);
    assert_eq!(drop_months(&stage).await, 3);
    assert_eq!(differing(&stage, building).await, 0);
    // Once its month is wholly in the baseline, nobody can say what it would have been.
    assert!(stage.apply(&Stage::spec("sum", json!({"operator": "incr"})), false).await.is_err());
    let again = recompute_again(&stage, "sum").await;
    stage.build(again).await;
    assert_eq!(stage.entries(again).await, best);
}

#[tokio::test]
async fn a_recompute_that_finds_its_games_events_in_the_baseline_holds_no_month() {
    let stage = Stage::new(NOW).await;
    with_history(&stage).await;
    let other = tenants::game(&stage, "other").await;
    assert!(other > stage.game, "events are read in the order of games");
    of_another_game(&stage, other).await;
    assert_eq!(fold_some(&stage, 59).await, Step::More);
    let begun = recompute_again(&stage, "sum").await;
    let (live, whole) = {
        let live = stage.rules.live().into_iter().find(|b| b.generation.spec.slug.as_str() == "sum").unwrap();
        (live.generation.id, stage.entries(live.generation.id).await)
    };
    assert_ne!(live, begun);
    assert_eq!(fold_some(&stage, 20).await, Step::Recomputing, "one event of its game is left");
    sqlx::query("UPDATE leaderboard_generations SET state = 'retired' WHERE id = $1")
        .bind(begun.0)
        .execute(stage.pool())
        .await
        .unwrap();
    assert_eq!(fold_some(&stage, 1).await, Step::More, "the last of its game");
    let begun = recompute_again(&stage, "sum").await;
    assert_eq!(drop_months(&stage).await, 3, "it begins with the baseline, and never reads January");
    stage.build(begun).await;
    assert_eq!(stage.entries(begun).await, whole);
    assert_eq!(differing(&stage, begun).await, 0);
}

async fn of_another_game(stage: &Stage, game: GameId) {
    sqlx::query(
        "INSERT INTO events (game_id, event_id, occurred_at, received_at, definitions_generation, from_server, type,
                             player_id, payload)
         SELECT $1, gen_random_uuid(), $2, $2, 1, false, 'game_ended', 'p-' || n, '{}' FROM generate_series(1, 10) n",
    )
    .bind(game.0)
    .bind(at("2026-01-05T10:00:00Z"))
    .execute(stage.pool())
    .await
    .unwrap();
}
