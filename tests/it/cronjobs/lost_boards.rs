//! Leaderboards in Redis that Postgres lost when it went back are removed, and no others.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use scoreline::aggregator::context::Context;
use scoreline::aggregator::lost_boards::{self, STEPS};
use scoreline::aggregator::retention;
use scoreline::domain::board::Order;
use scoreline::domain::ids::BoardGenerationId;
use scoreline::domain::period::Period;
use scoreline::domain::ranking_key::{Standing, VersionedStanding};
use scoreline::store::beacons;
use scoreline::store::pool::Pool;
use serde_json::json;
use sqlx::Executor;
use sqlx::postgres::PgPoolOptions;

use super::stage::Stage;

const LOST: BoardGenerationId = BoardGenerationId(777);

impl Stage {
    /// Makes a board in Redis, as a rebuild does.
    async fn put(&self, generation: BoardGenerationId, players: usize) {
        let period = Period { starts_at: scoreline::domain::clock::Micros(0), ends_at: None };
        let token = self.ranking.begin_rebuild(generation).await.unwrap();
        let entries: Vec<VersionedStanding> = (0..players)
            .map(|n| VersionedStanding {
                player_id: format!("p-{n}"),
                version: 1,
                standing: Standing { score: 1, subscore: 0, reached_at: scoreline::domain::clock::Micros(1) },
            })
            .collect();
        self.ranking.write_rebuild(&token, &period, Order::Descending, &entries).await.unwrap();
        self.ranking.finish_rebuild(&token, 5).await.unwrap();
    }

    /// Postgres and Redis know of one another.
    async fn begin_era(&self) {
        let beacon = beacons::write(self.pool()).await.unwrap();
        let known = self.ranking.beacon().await.unwrap();
        assert!(self.ranking.begin_era(known.as_ref(), beacon.sequence, beacon.mark).await.unwrap());
    }

    fn keys_of(&self, generation: BoardGenerationId) -> Vec<String> {
        let pattern = format!("{{sl:b3:{generation}}}:*");
        redis::cmd("KEYS").arg(pattern).query(&mut self.redis.connection()).unwrap()
    }

    fn set(&self, key: &str, value: &str) {
        redis::cmd("SET").arg(key).arg(value).exec(&mut self.redis.connection()).unwrap();
    }
}

#[tokio::test]
async fn boards_that_postgres_does_not_know_are_removed_and_others_stay() {
    let stage = Stage::new("2026-11-20T12:00:00Z").await;
    let known = stage.live("kept", json!({})).await.generation.id;
    stage.begin_era().await;
    stage.put(LOST, 3).await;
    stage.put(known, 3).await;
    let kept = stage.keys_of(known).len();
    // Neither the board's set of periods nor anything else names these.
    stage.set("{sl:b3:777}:p:5..9:rank", "stray");
    stage.set("{sl:b3:778}:shadow:5..9:member", "stray");
    stage.set("{sl:b3:x}:ready", "somebody's");
    stage.set("{sl:b3x:777}:ready", "somebody's");
    stage.set("{other:b3:777}:ready", "somebody's");
    let tenure = stage.tenure("clean-up").await;
    assert!(retention::clean_up(&stage.context, &tenure).await.unwrap() >= 2);
    assert_eq!((stage.keys_of(LOST), stage.keys_of(BoardGenerationId(778))), (vec![], vec![]));
    assert_eq!(stage.keys_of(known).len(), kept);
    assert!(stage.ranking.version(known).await.unwrap().is_some());
    let others: Vec<String> = redis::cmd("KEYS").arg("*:ready").query(&mut stage.redis.connection()).unwrap();
    assert_eq!(others.len(), 4, "{others:?}");
}

/// A Postgres that was left behind when another took over does not know the newest boards.
#[tokio::test]
async fn only_the_postgres_that_redis_was_told_of_may_say_what_is_lost() {
    let stage = Stage::new("2026-11-20T12:00:00Z").await;
    let tenure = stage.tenure("clean-up").await;
    stage.put(LOST, 3).await;
    let remove = async || lost_boards::remove(&stage.context, &tenure, STEPS).await.unwrap();
    assert_eq!(remove().await, 0, "Redis was told of none");
    stage.begin_era().await;
    let told = stage.ranking.beacon().await.unwrap().unwrap();
    let elsewhere = uuid::Uuid::from_u128(7);
    assert!(stage.ranking.tell_beacon(&told, told.sequence + 1, elsewhere).await.unwrap());
    assert_eq!(remove().await, 0, "Redis was told of another");
    assert!(!stage.keys_of(LOST).is_empty());
    stage.begin_era().await;
    assert_eq!(remove().await, 1);
}

/// The number of a lost board is given out again: Postgres's sequence went back as well.
#[tokio::test]
async fn a_board_that_has_changed_since_it_was_looked_at_is_somebodys() {
    let stage = Stage::new("2026-11-20T12:00:00Z").await;
    stage.begin_era().await;
    stage.put(LOST, 3).await;
    let keys = stage.keys_of(LOST);
    let see = async || stage.ranking.see_board(LOST).await.unwrap().unwrap();
    let before = see().await;
    let token = stage.ranking.begin_rebuild(LOST).await.unwrap();
    assert!(!stage.ranking.remove_lost(&before, &keys).await.unwrap(), "it is being rebuilt");
    stage.ranking.finish_rebuild(&token, 9).await.unwrap();
    assert!(!stage.ranking.remove_lost(&before, &keys).await.unwrap(), "it was rebuilt");
    let before = see().await;
    stage.begin_era().await;
    assert!(!stage.ranking.remove_lost(&before, &keys).await.unwrap(), "Postgres may be another");
    assert!(stage.keys_of(LOST).len() > 3);
    assert!(stage.ranking.remove_lost(&see().await, &keys).await.unwrap());
    assert!(stage.keys_of(LOST).is_empty());
}

#[tokio::test]
async fn a_search_is_cut_into_runs_and_goes_on_where_it_stopped() {
    let stage = Stage::new("2026-11-20T12:00:00Z").await;
    stage.begin_era().await;
    let mut many = redis::pipe();
    for n in 0..20_000 {
        many.set(format!("other:{n}"), "x").ignore();
    }
    many.exec(&mut stage.redis.connection()).unwrap();
    stage.put(LOST, 1).await;
    let tenure = stage.tenure("clean-up").await;
    let mut runs = 0;
    while !stage.keys_of(LOST).is_empty() {
        lost_boards::remove(&stage.context, &tenure, 2).await.unwrap();
        runs += 1;
        assert!(runs <= 20, "a run begins anew each time");
    }
    // Two thousand of twenty thousand keys a run: that it was met at once is a matter of luck, that it was met is not.
    let steps_left = async || {
        let mut steps = 1;
        while !stage.ranking.search_boards().await.unwrap().1 {
            steps += 1;
        }
        steps
    };
    steps_left().await;
    assert!(steps_left().await > 10, "a step looks at a bounded number of keys");
}

/// A connection of before leads to the server that was left behind. What it does not know, and what the new one says of
/// beacons, together mean nothing.
#[tokio::test]
async fn a_board_is_lost_only_by_what_one_server_says() {
    let stage = Stage::new("2026-11-20T12:00:00Z").await;
    let known = stage.live("kept", json!({})).await.generation.id;
    stage.begin_era().await;
    stage.put(known, 3).await;
    // What was left behind has the same leases, and neither the board nor the beacon.
    let left_behind = "CREATE SCHEMA behind; GRANT USAGE ON SCHEMA behind TO PUBLIC;
                       CREATE TABLE behind.leaderboard_generations (LIKE leaderboard_generations);
                       CREATE TABLE behind.beacons (LIKE beacons);
                       GRANT SELECT ON ALL TABLES IN SCHEMA behind TO PUBLIC";
    sqlx::raw_sql(left_behind).execute(&mut stage.database.superuser().await).await.unwrap();
    // How many of the next questions go to that one.
    let left = Arc::new(AtomicI64::new(0));
    let asked = Arc::clone(&left);
    let options = PgPoolOptions::new().max_connections(1).before_acquire(move |connection, _| {
        let behind = asked.fetch_sub(1, Ordering::SeqCst) > 0;
        let path = if behind { "SET search_path = behind, public" } else { "SET search_path = public" };
        Box::pin(async move { connection.execute(path).await.map(|_| true) })
    });
    let pool = options.connect(&stage.database.url).await.unwrap();
    let context = Context { pool: Pool::new(pool), ..Context::clone(&stage.context) };
    let tenure = stage.tenure("clean-up").await;
    for questions in 0..=4 {
        left.store(questions, Ordering::SeqCst);
        assert_eq!(lost_boards::remove(&context, &tenure, STEPS).await.unwrap(), 0, "{questions}");
    }
    assert!(stage.ranking.version(known).await.unwrap().is_some());
}
