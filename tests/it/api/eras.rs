//! What was asked before a moment and answered after it: an era that has begun meanwhile, or a version that was shown.

use std::time::Duration;

use clap::Parser;
use hyper::StatusCode;
use scoreline::domain::ids::BoardGenerationId;
use scoreline::domain::period::Period;
use scoreline::store::periods;
use scoreline::store::pool::Pool;
use scoreline::store::settings::PostgresConfig;
use serde_json::json;

use super::redis_away::{EPOCH, hide, version_of};
use super::world::{Answer, Game, World, board};
use crate::support::gate::Gate;
use crate::support::{eventually, nothing_happens_for, postgres};

const PATIENCE: Duration = Duration::from_secs(10);

async fn standing(world: &World, game: &Game, slug: &str, player: &str) -> Answer {
    world.get(&format!("/v1/leaderboards/{slug}/entries/{player}"), Some(&game.client)).await
}

fn lose(world: &World, generation: BoardGenerationId) {
    redis::cmd("DEL").arg(format!("{{sl:b3:{generation}}}:ready")).exec(&mut world.redis.connection()).unwrap();
}

/// A world whose api has one connection to Postgres, on which each statement that reading needs was prepared; the gate
/// holds only what is asked from then on.
async fn warm() -> (World, Gate, Game, BoardGenerationId) {
    let (world, gate) = World::gated().await;
    let game = world.game("demo").await;
    let other = world.board(&game, board("other")).await;
    let generation = world.board(&game, board("global")).await;
    lose(&world, other);
    assert_eq!(standing(&world, &game, "other", "a").await.status, StatusCode::NOT_FOUND, "from Postgres");
    (world, gate, game, generation)
}

async fn held(gate: &Gate) {
    eventually("an answer of Postgres is on its way", PATIENCE, async || gate.holds_an_answer()).await;
}

#[tokio::test]
async fn a_period_that_was_asked_for_before_an_era_is_asked_for_again_after_it() {
    let (world, gate, game, generation) = warm().await;
    let ensure = async || periods::ensure(&world.db.pool, generation, &Period::WHOLE).await.unwrap().id;
    let old = ensure().await;
    let id = async || {
        let page = world.get("/v1/leaderboards/global/entries", Some(&game.client)).await;
        page.json()["period"]["id"].as_i64().unwrap()
    };
    gate.hold_answers();
    let (asked, new) = tokio::join!(id(), async {
        held(&gate).await;
        sqlx::query("DELETE FROM leaderboard_periods").execute(&world.db.pool).await.unwrap();
        let new = ensure().await;
        world.begin_era().await;
        nothing_happens_for(Duration::from_millis(300)).await;
        gate.open();
        new
    });
    assert!(asked == old || asked == new, "{asked}");
    eventually("the new one is shown", PATIENCE, async || id().await == new).await;
}

#[tokio::test]
async fn what_was_read_before_an_era_is_not_waited_for_after_it() {
    let (world, gate, game, generation) = warm().await;
    let stored = periods::ensure(&world.db.pool, generation, &Period::WHOLE).await.unwrap();
    assert_eq!(standing(&world, &game, "global", "lost").await.status, StatusCode::NOT_FOUND);
    world.store(generation, stored, &[("kept", 1), ("lost", 2)]).await;
    lose(&world, generation);
    gate.hold_answers();
    tokio::join!(standing(&world, &game, "global", "lost"), async {
        held(&gate).await;
        world.begin_era().await;
        nothing_happens_for(Duration::from_millis(300)).await;
        gate.open();
    });
    // What is left is too large to be answered from Postgres.
    sqlx::query("DELETE FROM leaderboard_entries WHERE player_id = 'lost'").execute(&world.db.pool).await.unwrap();
    world.store_many(&stored).await;
    world.make_ready(generation).await;
    eventually("Redis answers", PATIENCE, async || {
        standing(&world, &game, "global", "p-1").await.status == StatusCode::OK
    })
    .await;
}

/// The first era that is seen is none in which anything was lost, and others lose only a part.
#[tokio::test]
async fn what_was_shown_before_an_era_and_still_stands_is_waited_for_after_it() {
    let world = World::new().await;
    let game = world.game("demo").await;
    let generation = world.board(&game, board("global")).await;
    let stored = periods::ensure(&world.db.pool, generation, &Period::WHOLE).await.unwrap();
    world.store(generation, stored, &[("early", 3), ("late", 2)]).await;
    let shows = async |player: &str| standing(&world, &game, "global", player).await.status == StatusCode::OK;
    hide(&world, generation, true);
    assert!(shows("early").await, "from Postgres");
    hide(&world, generation, false);
    world.publish(generation, EPOCH, version_of(&world, "late").await, &[("late", 2)]).await;
    world.begin_era().await;
    let looked = std::time::Instant::now();
    while looked.elapsed() < Duration::from_millis(1_500) {
        assert!(shows("early").await, "Redis has only the later one");
    }
    let published = [("early", 3), ("only-redis", 1)];
    world.publish(generation, EPOCH, version_of(&world, "early").await, &published).await;
    eventually("Redis answers", PATIENCE, async || {
        assert!(shows("early").await);
        shows("only-redis").await
    })
    .await;
}

#[derive(Parser)]
struct Settings {
    #[command(flatten)]
    postgres: PostgresConfig,
}

/// The server that connections of before lead to may be the one that was left behind.
#[tokio::test]
async fn an_era_is_read_through_new_connections() {
    let db = postgres::database().await;
    let settings = Settings::parse_from(["test", "--database-url", &db.url]);
    let world = World::through(db, Pool::lazy(&settings.postgres, "api").unwrap()).await;
    let game = world.game("demo").await;
    world.board(&game, board("global")).await;
    let connections = async || -> Vec<i32> {
        let of_api = "SELECT pid FROM pg_stat_activity
                       WHERE datname = current_database() AND application_name = 'scoreline api'";
        sqlx::query_scalar(of_api).fetch_all(&world.db.pool).await.unwrap()
    };
    let before = connections().await;
    assert!(!before.is_empty());
    world.begin_era().await;
    eventually("all are new", PATIENCE, async || {
        // Asks Postgres.
        world.get("/v1/leaderboards/global/periods", Some(&game.client)).await;
        let now = connections().await;
        !now.is_empty() && !now.iter().any(|pid| before.contains(pid))
    })
    .await;
}

#[tokio::test]
async fn who_waits_for_anothers_read_is_not_shown_less_than_was_shown_meanwhile() {
    let (world, gate, game, generation) = warm().await;
    let stored = periods::ensure(&world.db.pool, generation, &Period::WHOLE).await.unwrap();
    assert_eq!(standing(&world, &game, "global", "b").await.status, StatusCode::NOT_FOUND);
    let status = async || standing(&world, &game, "global", "b").await.status;
    lose(&world, generation);
    gate.hold_answers();
    tokio::join!(status(), async {
        held(&gate).await;
        // Redis has it again, with what was folded since, and then it has not.
        world.store(generation, stored, &[("b", 2)]).await;
        world.make_ready(generation).await;
        eventually("it is shown", PATIENCE, async || status().await == StatusCode::OK).await;
        lose(&world, generation);
        let again = async {
            assert_eq!(status().await, StatusCode::OK, "it was shown before");
        };
        tokio::join!(again, async {
            nothing_happens_for(Duration::from_millis(300)).await;
            gate.open();
        });
    });
}

/// Its directory is of before.
#[tokio::test]
async fn the_first_read_of_a_period_of_a_board_that_was_replaced_is_told_to_come_again() {
    let world = World::new().await;
    let game = world.game("demo").await;
    let mut daily = board("global");
    daily["reset"] = json!("daily");
    world.board(&game, daily).await;
    assert_eq!(standing(&world, &game, "global", "a").await.code(), "no_entry");
    sqlx::query("UPDATE leaderboard_generations SET state = 'retired'").execute(&world.db.pool).await.unwrap();
    world.now.fetch_add(86_400_000_000, std::sync::atomic::Ordering::Relaxed);
    let refused = standing(&world, &game, "global", "a").await;
    assert_eq!((refused.status.as_u16(), refused.code().as_str()), (503, "leaderboard_rebuilding"));
}
