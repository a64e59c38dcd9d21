//! What the api has heard of a board in Redis, and what Redis has.

use std::collections::BTreeMap;
use std::time::Duration;

use scoreline::aggregator::rebuild::check_boards;
use scoreline::aggregator::rules::Rules;
use scoreline::domain::period::Period;
use scoreline::ranking::{Ranking, Still};
use scoreline::store::pool::Pool;
use scoreline::store::{board_versions, periods};

use super::redis_away::{DAY, EPOCH, hide, read_current, standing_of};
use super::world::{World, board};
use crate::support::eventually;

/// Ids of those that listen to channels.
fn listeners(world: &World) -> Vec<String> {
    let mut redis = world.redis.connection();
    let list: String = redis::cmd("CLIENT").arg(&["LIST", "TYPE", "pubsub"]).query(&mut redis).unwrap();
    list.lines().filter_map(|line| Some(line.strip_prefix("id=")?.split_once(' ')?.0.to_owned())).collect()
}

#[tokio::test]
async fn redis_answers_without_postgres_also_after_its_notices_were_interrupted() {
    let db = crate::support::postgres::database().await;
    let pool = Pool::new(sqlx::postgres::PgPoolOptions::new().connect_lazy(&db.url).unwrap());
    let world = World::through(db, pool.clone()).await;
    let game = world.game("demo").await;
    let generation = world.board(&game, board("global")).await;
    world.publish(generation, EPOCH, 1, &[("a", 3)]).await;
    let score = async || standing_of(&world, &game, "a").await["entry"]["score"].clone();
    assert_eq!(score().await, 3);
    pool.close().await;
    let before = listeners(&world);
    redis::cmd("CLIENT").arg(&["KILL", "TYPE", "pubsub"]).exec(&mut world.redis.connection()).unwrap();
    eventually("all listen again", Duration::from_secs(10), async || {
        let now = listeners(&world);
        now.len() == before.len() && !now.iter().any(|id| before.contains(id))
    })
    .await;
    let until = std::time::Instant::now() + Duration::from_millis(1_500);
    while std::time::Instant::now() < until {
        assert_eq!(score().await, 3, "Redis has it");
    }
}

/// Whoever has published nothing since it started cannot know that Redis has gone back.
#[tokio::test]
async fn a_lower_version_that_is_announced_makes_no_older_board_readable() {
    let world = World::new().await;
    let game = world.game("demo").await;
    let generation = world.board(&game, board("global")).await;
    let period = periods::ensure(&world.db.pool, generation, &Period::WHOLE).await.unwrap();
    world.store(generation, period, &[("a", 3), ("b", 2), ("c", 1)]).await;
    let key = format!("{{sl:b3:{generation}}}:version");
    let mut redis = world.redis.connection();
    let closed = Period { starts_at: DAY, ends_at: Some(DAY.plus_seconds(86_400)) };
    world.publish(generation, DAY, 1, &[("long-ago", 1)]).await;
    world.publish(generation, EPOCH, 1, &[("a", 3)]).await;
    let before: i64 = redis::cmd("GET").arg(&key).query(&mut redis).unwrap();
    for (player, score) in [("b", 2), ("c", 1)] {
        world.publish(generation, EPOCH, 2, &[(player, score)]).await;
    }
    let read = async || {
        let answer = world.get("/v1/leaderboards/global/entries", Some(&game.client)).await;
        (answer.players().len(), answer.json()["version"].as_i64().unwrap())
    };
    eventually("all are shown", Duration::from_secs(5), async || read().await == (3, before + 2)).await;
    // A replica that lagged takes over. A cron that has just started removes a closed period.
    world.ranking.remove_period(generation, &Period::WHOLE, Still::InEra("")).await.unwrap();
    world.publish(generation, EPOCH, 1, &[("a", 3)]).await;
    redis::cmd("SET").arg(&key).arg(before).exec(&mut redis).unwrap();
    let started = Ranking::open(&world.redis.url, "sl").unwrap();
    assert!(started.remove_period(generation, &closed, Still::InEra("")).await.unwrap());
    let (until, mut last) = (std::time::Instant::now() + Duration::from_millis(1_500), before + 2);
    while std::time::Instant::now() < until {
        let (players, version) = read().await;
        assert!(players == 3 && version >= last, "{players} under {version} after {last}");
        last = version;
    }
}

#[tokio::test]
async fn a_board_that_redis_shows_under_an_older_version_than_postgres_did_is_rebuilt() {
    let world = World::new().await;
    let game = world.game("demo").await;
    let (generation, last_week, _) = world.last_week(&game, board("global")).await;
    world.store_many(&last_week).await;
    let this_week = read_current(&world, &game).await;
    world.store(generation, this_week, &[("a", 3)]).await;
    world.make_ready(generation).await;
    let get = async |beside: &str| {
        let path = format!("/v1/leaderboards/global/entries/{beside}");
        let answer = world.get(&path, Some(&game.client)).await;
        (answer.status.as_u16(), answer.json()["version"].as_i64().unwrap_or_default())
    };
    let (small, large) = ("a", "p-1?period=previous");
    assert_eq!((get(small).await.0, get(large).await.0), (200, 200));
    // A fold of which Redis has the entries: it has lost the version that was given with them.
    let mut connection = world.db.pool.acquire().await.unwrap();
    board_versions::note(&mut connection, &BTreeMap::from([(generation.0, 1)]), 1).await.unwrap();
    drop(connection);
    hide(&world, generation, true);
    let (_, in_postgres) = get(small).await;
    hide(&world, generation, false);
    assert_eq!(get(large).await.0, 503, "Redis has an older board");
    let rules = Rules::new(world.db.pool.clone());
    for asked in [small, large] {
        eventually("Redis answers", Duration::from_secs(10), async || {
            check_boards(&world.db.pool, &world.ranking, &rules).await.unwrap();
            let (status, version) = get(asked).await;
            status == 200 && version > in_postgres
        })
        .await;
    }
}
