//! Never an empty board that is not empty: a Redis that has lost a part of one, and periods that are frozen
//! and not ranked.

use std::time::Duration;

use hyper::{Method, StatusCode};
use scoreline::domain::board::Order;
use scoreline::domain::clock::Micros;
use scoreline::domain::ids::BoardGenerationId;
use scoreline::domain::period::Period;
use scoreline::ranking::BoardStatus;
use scoreline::store::{entries, markers, periods};
use serde_json::json;

use super::world::{Game, World, board};
use crate::support::eventually;

const EPOCH: Micros = Micros::EPOCH;
const BASE: &str = "/v1/leaderboards/global/entries";

async fn period(world: &World, generation: BoardGenerationId) -> periods::StoredPeriod {
    periods::ensure(&world.db.pool, generation, &Period { starts_at: EPOCH, ends_at: None }).await.unwrap()
}

/// What each route answers: its status, and of entries how many.
async fn answers(world: &World, game: &Game, period: &str) -> [(u16, usize); 4] {
    let get = async |path: String| world.get(&path, Some(&game.client)).await;
    let body = json!({"player_ids": ["p-1"]});
    let pages = [
        // Each time another page: none is from a cache.
        get(format!("{BASE}?period={period}&limit={}", 500 + u16::from(rand::random::<u8>()))).await,
        get(format!("{BASE}/p-1/around?period={period}")).await,
        world.send(Method::POST, &format!("{BASE}/lookup?period={period}"), Some(&game.client), &body).await,
    ];
    let standing = get(format!("{BASE}/p-1?period={period}")).await;
    let [page, around, friends] = pages.map(|answer| {
        let shown = if answer.status == StatusCode::OK { answer.players().len() } else { 0 };
        (answer.status.as_u16(), shown)
    });
    [page, (standing.status.as_u16(), 1), around, friends]
}

const SMALL: [(u16, usize); 4] = [(200, 3), (200, 1), (200, 3), (200, 1)];
const REFUSED: [(u16, usize); 4] = [(503, 0), (503, 1), (503, 0), (503, 0)];

fn lose(world: &World, generation: BoardGenerationId, keys: &[&str]) {
    for key in keys {
        let key = format!("{{sl:b3:{generation}}}:{key}");
        redis::cmd("DEL").arg(key).exec(&mut world.redis.connection()).unwrap();
    }
}

#[tokio::test]
async fn a_board_of_which_redis_lost_a_part_is_never_answered_as_it_is_left() {
    let world = World::new().await;
    let game = world.game("demo").await;
    let generation = world.board(&game, board("global")).await;
    let (small, large) = (period(&world, generation).await, world.board(&game, board("large")).await);
    world.store(generation, small, &[("p-1", 3), ("p-2", 2), ("p-3", 1)]).await;
    world.store_many(&period(&world, large).await).await;
    for lost in [
        &["p:0..:rank"][..],
        &["p:0..:member"],
        &["p:0..:rank", "p:0..:member"],
        &["p:0..:rank", "p:0..:member", "periods"],
        &["version"],
        &["ready"],
    ] {
        for board in [generation, large] {
            world.make_ready(board).await;
            lose(&world, board, lost);
        }
        assert_eq!(answers(&world, &game, "current").await, SMALL, "{lost:?}");
        let refused = world.get("/v1/leaderboards/large/entries/p-1", Some(&game.client)).await;
        assert_eq!((refused.status.as_u16(), refused.code().as_str()), (503, "leaderboard_rebuilding"), "{lost:?}");
        let doubted = if lost == ["ready"] { BoardStatus::Missing } else { BoardStatus::Doubtful };
        eventually("cron is told", Duration::from_secs(5), async || {
            // Whoever reads it while it is marked already need not say so again.
            world.get("/v1/leaderboards/large/entries/p-1", Some(&game.client)).await;
            answers(&world, &game, "current").await;
            world.ranking.status(&[generation, large]).await.unwrap() == [doubted; 2]
        })
        .await;
    }
    world.make_ready(large).await;
    let found = world.get("/v1/leaderboards/large/entries/p-1", Some(&game.client)).await;
    assert_eq!(found.json()["total"], 1_200);
}

#[tokio::test]
async fn who_reads_a_damaged_board_keeps_no_rebuild_from_its_turn() {
    let world = World::new().await;
    let game = world.game("demo").await;
    let generation = world.board(&game, board("global")).await;
    let stored = period(&world, generation).await;
    world.store_many(&stored).await;
    world.make_ready(generation).await;
    lose(&world, generation, &["p:0..:rank"]);
    // It has begun when somebody reads, and writes and swaps later.
    let token = world.ranking.begin_rebuild(generation).await.unwrap();
    eventually("cron is told", Duration::from_secs(5), async || {
        let refused = world.get(&format!("{BASE}/p-1"), Some(&game.client)).await;
        assert_eq!(refused.code(), "leaderboard_rebuilding");
        world.ranking.status(&[generation]).await.unwrap() == [BoardStatus::Doubtful]
    })
    .await;
    let entries = entries::chunk(&world.db.pool, stored.id, "", 2_000).await.unwrap();
    world.ranking.write_rebuild(&token, &stored.period, Order::Descending, &entries).await.unwrap();
    world.ranking.finish_rebuild(&token, 1).await.unwrap();
    eventually("it is whole", Duration::from_secs(5), async || {
        world.get(&format!("{BASE}/p-1"), Some(&game.client)).await.status == StatusCode::OK
    })
    .await;
}

#[tokio::test]
async fn a_period_that_clean_up_removed_is_not_answered_as_an_empty_one() {
    // No notice comes, so that it goes on taking the period for the current one.
    let world = World::deaf().await;
    let game = world.game("demo").await;
    let generation = world.board(&game, board("global")).await;
    let stored = period(&world, generation).await;
    world.store(generation, stored, &[("p-1", 3), ("p-2", 2), ("p-3", 1)]).await;
    world.make_ready(generation).await;
    assert_eq!(world.get(&format!("{BASE}/p-1"), Some(&game.client)).await.status, StatusCode::OK);
    lose(&world, generation, &["ready"]);
    for remove in ["DELETE FROM leaderboard_entries", "DELETE FROM leaderboard_periods"] {
        sqlx::query(remove).execute(&world.db.pool).await.unwrap();
    }
    assert_eq!(answers(&world, &game, "current").await, REFUSED);
}

#[tokio::test]
async fn what_a_restored_postgres_has_lost_is_not_waited_for() {
    let world = World::new().await;
    shows_what_is_lost_until(&world, async || world.begin_era().await).await;
}

/// A notice is a hint: who heard none would wait for ever.
#[tokio::test]
async fn what_a_restored_postgres_has_lost_is_not_waited_for_without_a_notice() {
    let world = World::new().await;
    world.begin_era().await;
    shows_what_is_lost_until(&world, async || {
        let told = format!("2 {} of-another-postgres", uuid::Uuid::new_v4().simple());
        redis::cmd("SET").arg("sl:beacon").arg(told).exec(&mut world.redis.connection()).unwrap();
    })
    .await;
}

/// It saw none before.
#[tokio::test]
async fn what_a_restored_postgres_has_lost_is_not_waited_for_once_the_first_era_is_seen() {
    let world = World::new().await;
    shows_what_is_lost_until(&world, async || {
        let told = format!("2 {} of-a-postgres", uuid::Uuid::new_v4().simple());
        redis::cmd("SET").arg("sl:beacon").arg(told).exec(&mut world.redis.connection()).unwrap();
    })
    .await;
}

async fn shows_what_is_lost_until(world: &World, goes_back: impl AsyncFn()) {
    let game = world.game("demo").await;
    let generation = world.board(&game, board("global")).await;
    let stored = period(world, generation).await;
    world.store(generation, stored, &[("kept", 1), ("lost", 2)]).await;
    lose(world, generation, &["ready"]);
    assert_eq!(world.get(&format!("{BASE}/lost"), Some(&game.client)).await.status, StatusCode::OK);
    // Restored from a backup that lacks what was shown, and by now too large to be answered from Postgres.
    sqlx::query("DELETE FROM leaderboard_entries WHERE player_id = 'lost'").execute(&world.db.pool).await.unwrap();
    world.store_many(&stored).await;
    world.make_ready(generation).await;
    let reads = async |status: u16| world.get(&format!("{BASE}/p-1"), Some(&game.client)).await.status == status;
    eventually("it waits for what was shown", Duration::from_secs(5), async || reads(503).await).await;
    goes_back().await;
    eventually("it does no longer", Duration::from_secs(5), async || reads(200).await).await;
}

#[tokio::test]
async fn a_period_that_is_frozen_and_not_ranked_is_read_like_an_open_one() {
    let world = World::new().await;
    let game = world.game("demo").await;
    let (generation, last, _) = world.last_week(&game, board("global")).await;
    world.store(generation, last, &[("p-1", 3), ("p-2", 2), ("p-3", 1)]).await;
    world.make_ready(generation).await;
    let freeze = "UPDATE leaderboard_periods SET state = 'closed' WHERE ends_at IS NOT NULL AND id = $1";
    sqlx::query(freeze).bind(last.id).execute(&world.db.pool).await.unwrap();
    let full = format!("{BASE}?period=previous&include=plays,metadata");
    let page = world.get(&full, Some(&game.client)).await.json();
    assert_eq!((&page["entries"][0]["plays"], &page["entries"][0]["metadata"]), (&json!(1), &json!({"car": "red"})));
    let listed = world.get("/v1/leaderboards/global/periods", Some(&game.client)).await.json();
    let listed = listed["periods"].as_array().unwrap().iter().find(|p| p["id"] == last.id).unwrap().clone();
    assert_eq!((&listed["state"], &listed["entry_count"]), (&json!("open"), &json!(null)));
    lose(&world, generation, &["ready"]);
    assert_eq!(answers(&world, &game, "previous").await, SMALL, "from its entries");
    world.store_many(&last).await;
    eventually("too many for that", Duration::from_secs(5), async || {
        answers(&world, &game, "previous").await == REFUSED
    })
    .await;
}

#[tokio::test]
async fn a_large_board_waits_for_nothing_that_was_not_shown() {
    let world = World::new().await;
    let game = world.game("demo").await;
    let generation = world.board(&game, board("global")).await;
    world.store_many(&period(&world, generation).await).await;
    // An outage left something of another board to be published.
    let mut transaction = world.db.pool.begin().await.unwrap();
    markers::insert(&mut transaction, 0, b"of others").await.unwrap();
    transaction.commit().await.unwrap();
    lose(&world, generation, &["ready"]);
    let get = async || world.get(&format!("{BASE}/p-1"), Some(&game.client)).await;
    assert_eq!(get().await.status, StatusCode::SERVICE_UNAVAILABLE);
    world.make_ready(generation).await;
    assert_eq!(get().await.status, StatusCode::OK);
}
