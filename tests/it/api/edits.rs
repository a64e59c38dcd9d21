//! What players read of a board whose schedule was edited: its current period by the new one, and all that is final.

use scoreline::domain::clock::Micros;
use scoreline::domain::ids::BoardGenerationId;
use scoreline::domain::period::Period;
use scoreline::store::periods;
use serde_json::{Value, json};

use super::world::{Answer, Game, World, board};

/// Monday of the world's week, 2026-11-16.
const MONDAY: Micros = Micros::from_seconds(1_794_787_200);
const DAY: i64 = 86_400;

/// A closed day with five players, best first from `a` to `e`. Returns its id.
async fn closed_day(world: &World, generation: BoardGenerationId, starts_at: Micros) -> i64 {
    let day = Period { starts_at, ends_at: Some(starts_at.plus_seconds(DAY)) };
    let id = periods::ensure(&world.db.pool, generation, &day).await.unwrap().id;
    for (rank, player) in (1i64..).zip(["a", "b", "c", "d", "e"]) {
        sqlx::query(
            "INSERT INTO period_standings
                    (period_id, rank, competition_rank, player_id, score, subscore, reached_at, plays)
             VALUES ($1, $2, $2, $3, 10 - $2, 0, 'epoch', 1)",
        )
        .bind(id)
        .bind(rank)
        .bind(player)
        .execute(&world.db.pool)
        .await
        .unwrap();
    }
    sqlx::query("UPDATE leaderboard_periods SET state = 'closed', entry_count = 5, closed_at = now() WHERE id = $1")
        .bind(id)
        .execute(&world.db.pool)
        .await
        .unwrap();
    id
}

async fn get(world: &World, game: &Game, path: &str) -> Answer {
    world.get(&format!("/v1/leaderboards/b{path}"), Some(&game.client)).await
}

fn daily() -> Value {
    let mut daily = board("b");
    daily["reset"] = "daily".into();
    daily
}

#[tokio::test]
async fn where_an_edit_makes_periods_overlap_all_are_listed_and_read_by_id() {
    let world = World::new().await;
    let game = world.game("demo").await;
    let generation = world.board(&game, daily()).await;
    let monday = closed_day(&world, generation, MONDAY).await;
    let tuesday = closed_day(&world, generation, MONDAY.plus_seconds(DAY)).await;
    let first = get(&world, &game, &format!("/entries?period={monday}&limit=2")).await;
    assert_eq!(first.players(), ["a", "b"]);
    let cursor = first.json()["next_cursor"].as_str().unwrap().to_owned();

    let mut weekly = board("b");
    weekly["reset"] = "weekly".into();
    weekly["order"] = "ascending".into();
    let edited = world.board(&game, weekly).await;
    world.publish_week(edited, MONDAY, &[("new", 1)]).await;

    let current = get(&world, &game, "/entries").await;
    assert_eq!(current.players(), ["new"]);
    let period = &current.json()["period"];
    assert_eq!(
        (&period["starts_at"], &period["ends_at"]),
        (&json!("2026-11-16T00:00:00Z"), &json!("2026-11-23T00:00:00Z"))
    );
    let listed = get(&world, &game, "/periods").await.json();
    let ids: Vec<i64> = listed["periods"].as_array().unwrap().iter().map(|p| p["id"].as_i64().unwrap()).collect();
    assert_eq!(ids, [tuesday, period["id"].as_i64().unwrap(), monday]);
    // A page that ends among periods of one start misses none of them.
    let page = get(&world, &game, "/periods?limit=2").await.json();
    assert_eq!(page["periods"].as_array().unwrap().len(), 3);
    let before = page["next_before"].as_str().unwrap();
    let rest = get(&world, &game, &format!("/periods?before={before}")).await.json();
    assert_eq!(rest["periods"], json!([]));

    // What is final is read as it was, in its own order, and a cursor into it stays valid.
    let by_id = get(&world, &game, &format!("/entries?period={monday}&limit=2")).await;
    assert_eq!(by_id.players(), ["a", "b"]);
    let next = get(&world, &game, &format!("/entries?limit=2&cursor={cursor}")).await;
    assert_eq!((next.players(), next.ranks()), (vec!["c".to_owned(), "d".to_owned()], vec![3, 4]));
    let around = get(&world, &game, &format!("/entries/c/around?period={monday}&limit=3")).await;
    assert_eq!(around.players(), ["b", "c", "d"]);
}

#[tokio::test]
async fn a_cursor_of_what_an_edit_replaced_is_invalid() {
    let world = World::new().await;
    let game = world.game("demo").await;
    let generation = world.board(&game, daily()).await;
    let today = MONDAY.plus_seconds(5 * DAY);
    world.publish(generation, today, 1, &[("a", 3), ("b", 2), ("c", 1)]).await;
    let first = get(&world, &game, "/entries?limit=1").await;
    assert_eq!(first.players(), ["a"]);
    let cursor = first.json()["next_cursor"].as_str().unwrap().to_owned();
    let mut hourly = board("b");
    hourly["reset"] = json!({"cron": "0 * * * *"});
    world.board(&game, hourly).await;
    let next = get(&world, &game, &format!("/entries?cursor={cursor}")).await;
    assert_eq!(next.code(), "cursor_invalid");
}
