//! A Redis that is away and comes back.

use std::time::Duration;

use hyper::Method;
use scoreline::domain::clock::Micros;
use scoreline::domain::fact::shard_of;
use scoreline::domain::ids::BoardGenerationId;
use scoreline::domain::period::Period;
use scoreline::ranking::Still;
use scoreline::store::periods::StoredPeriod;
use scoreline::store::{board_versions, markers, periods};
use serde_json::json;

use super::world::{Game, World, board};
use crate::support::eventually;

pub const EPOCH: Micros = Micros::EPOCH;
/// The begin of some day that is over.
pub const DAY: Micros = Micros::from_seconds(86_400);

/// How much each route shows of the board, of the player c above all.
async fn shown_of_c(world: &World, game: &Game) -> (usize, u16, usize, usize) {
    let base = "/v1/leaderboards/global/entries";
    let page = world.get(base, Some(&game.client)).await;
    let standing = world.get(&format!("{base}/c"), Some(&game.client)).await;
    let around = world.get(&format!("{base}/c/around"), Some(&game.client)).await;
    let wanted = json!({"player_ids": ["c"]});
    let friends = world.send(Method::POST, &format!("{base}/lookup"), Some(&game.client), &wanted).await;
    (page.players().len(), standing.status.as_u16(), around.players().len(), friends.players().len())
}

/// The version of an entry in Postgres.
pub async fn version_of(world: &World, player: &str) -> i64 {
    sqlx::query_scalar("SELECT version FROM leaderboard_entries WHERE player_id = $1")
        .bind(player)
        .fetch_one(&world.db.pool)
        .await
        .unwrap()
}

#[tokio::test]
async fn a_standing_never_goes_back_when_redis_returns() {
    let mut world = World::new().await;
    let game = world.game("demo").await;
    let generation = world.board(&game, board("global")).await;
    let period = Period { starts_at: EPOCH, ends_at: None };
    let period = periods::ensure(&world.db.pool, generation, &period).await.unwrap();
    // Two are published. The third is folded, and waits for a publisher that does not reach Redis either.
    world.store(generation, period, &[("a", 3), ("b", 2), ("c", 1)]).await;
    for (player, score) in [("a", 3), ("b", 2)] {
        world.publish(generation, EPOCH, version_of(&world, player).await, &[(player, score)]).await;
    }
    // So does what other boards have: that is no concern of this one.
    let mut transaction = world.db.pool.begin().await.unwrap();
    markers::insert(&mut transaction, 0, b"of others").await.unwrap();
    transaction.commit().await.unwrap();
    world.redis.written().await;
    world.redis.kill();
    let all = (3, 200, 3, 1);
    assert_eq!(shown_of_c(&world, &game).await, all, "from Postgres");
    world.redis.start();
    eventually("Redis is reached again", Duration::from_secs(5), async || world.ranking.ping().await.is_ok()).await;
    // Longer than anything is cached.
    let looked = std::time::Instant::now();
    while looked.elapsed() < Duration::from_millis(1_500) {
        assert_eq!(shown_of_c(&world, &game).await, all, "Redis has not got it yet");
    }
    // Published at last: Redis answers again, with what only it has.
    let version = version_of(&world, "c").await;
    world.publish(generation, EPOCH, version, &[("c", 1), ("only-redis", 9)]).await;
    eventually("Redis answers", Duration::from_secs(5), async || shown_of_c(&world, &game).await == (4, 200, 4, 1))
        .await;
}

#[tokio::test]
async fn a_redis_that_went_back_shows_no_older_board() {
    // It was told of the version, or has only shown it.
    for world in [World::new().await, World::deaf().await] {
        shows_no_older_board(&world).await;
    }
}

async fn shows_no_older_board(world: &World) {
    let game = world.game("demo").await;
    let generation = world.board(&game, board("global")).await;
    let period = Period { starts_at: EPOCH, ends_at: None };
    let period = periods::ensure(&world.db.pool, generation, &period).await.unwrap();
    world.store(generation, period, &[("a", 3), ("b", 2)]).await;
    let key = format!("{{sl:b3:{generation}}}:version");
    let mut redis = world.redis.connection();
    world.publish(generation, EPOCH, 1, &[("a", 3)]).await;
    let before: i64 = redis::cmd("GET").arg(&key).query(&mut redis).unwrap();
    world.publish(generation, EPOCH, 2, &[("b", 2)]).await;
    let path = "/v1/leaderboards/global/entries";
    let version = |answer: &super::world::Answer| answer.json()["version"].as_i64().unwrap();
    let shown = world.get(path, Some(&game.client)).await;
    assert_eq!((shown.players().len(), version(&shown)), (2, before + 1));
    // A replica that lagged takes over: it has neither b nor the version.
    world.ranking.remove_period(generation, &Period::WHOLE, Still::InEra("")).await.unwrap();
    world.publish(generation, EPOCH, 1, &[("a", 3)]).await;
    redis::cmd("SET").arg(&key).arg(before).exec(&mut redis).unwrap();
    let until = std::time::Instant::now() + Duration::from_millis(1_500);
    let mut last = version(&shown);
    while std::time::Instant::now() < until {
        let answer = world.get(path, Some(&game.client)).await;
        assert_eq!(answer.players().len(), 2, "Postgres has both");
        assert!(version(&answer) >= last, "{} after {last}", version(&answer));
        last = version(&answer);
    }
    // Rebuilt: Redis answers again, under a later version.
    world.make_ready(generation).await;
    eventually("Redis answers", Duration::from_secs(5), async || {
        let answer = world.get(path, Some(&game.client)).await;
        version(&answer) > last && answer.players().len() == 2
    })
    .await;
}

/// Its ids are issued anew, so what is remembered of periods may name another board's.
#[tokio::test]
async fn periods_are_asked_for_again_when_postgres_went_back() {
    let world = World::new().await;
    let game = world.game("demo").await;
    world.board(&game, board("global")).await;
    let told = async || {
        let answer = world.get("/v1/leaderboards/global/entries", Some(&game.client)).await.json();
        answer["period"]["id"].as_i64().unwrap()
    };
    let first = told().await;
    assert_eq!(told().await, first);
    sqlx::query("DELETE FROM leaderboard_periods").execute(&world.db.pool).await.unwrap();
    let beacon = scoreline::store::beacons::write(&world.db.pool).await.unwrap();
    assert!(world.ranking.begin_era(None, beacon.sequence, beacon.mark).await.unwrap());
    eventually("it has the new id", Duration::from_secs(5), async || told().await > first).await;
}

/// Redis does not have the board, or has it again as it was.
pub fn hide(world: &World, generation: BoardGenerationId, hidden: bool) {
    let mut names = ["ready", "aside"].map(|name| format!("{{sl:b3:{generation}}}:{name}"));
    if !hidden {
        names.reverse();
    }
    redis::cmd("RENAME").arg(&names).exec(&mut world.redis.connection()).unwrap();
}

/// What is asked of one player: no cache has the answer.
pub async fn standing_of(world: &World, game: &Game, player: &str) -> serde_json::Value {
    world.get(&format!("/v1/leaderboards/global/entries/{player}"), Some(&game.client)).await.json()
}

#[tokio::test]
async fn an_entry_that_improved_while_redis_was_away_does_not_go_back() {
    let world = World::new().await;
    let game = world.game("demo").await;
    let generation = world.board(&game, board("global")).await;
    let period = periods::ensure(&world.db.pool, generation, &Period::WHOLE).await.unwrap();
    world.store(generation, period, &[("a", 3), ("b", 2)]).await;
    world.make_ready(generation).await;
    let fold = "UPDATE leaderboard_entries SET score = 9, version = nextval('entry_version') WHERE player_id = 'b'";
    sqlx::query(fold).execute(&world.db.pool).await.unwrap();
    let score = async || standing_of(&world, &game, "b").await["entry"]["score"].clone();
    hide(&world, generation, true);
    assert_eq!(score().await, 9, "from Postgres");
    hide(&world, generation, false);
    // What others have folded since is published and gives the board a later version. That of b still waits.
    world.store(generation, period, &[("c", 1)]).await;
    world.publish(generation, EPOCH, version_of(&world, "c").await, &[("c", 1)]).await;
    let looked = std::time::Instant::now();
    while looked.elapsed() < Duration::from_millis(1_500) {
        assert_eq!(score().await, 9, "Redis has the b of before");
    }
    world.publish(generation, EPOCH, version_of(&world, "b").await, &[("b", 9), ("only-redis", 1)]).await;
    eventually("Redis answers", Duration::from_secs(5), async || {
        assert_eq!(score().await, 9);
        standing_of(&world, &game, "only-redis").await["total"] == 4
    })
    .await;
}

/// Who publishes for a shard changes while Redis is away, and what a fold told is told again by whoever finds it. So
/// later folds of a shard may be published before earlier ones.
#[tokio::test]
async fn an_entry_that_was_shown_does_not_go_back_though_a_later_one_of_its_shard_is_published() {
    let world = World::new().await;
    let game = world.game("demo").await;
    let generation = world.board(&game, board("global")).await;
    let period = periods::ensure(&world.db.pool, generation, &Period::WHOLE).await.unwrap();
    world.make_ready(generation).await;
    // More than are asked for first.
    let others = (0..).map(|n| format!("p-{n}"));
    let of_its_shard = |player: &String| shard_of(generation, player) == shard_of(generation, "early");
    let later: Vec<String> = others.filter(of_its_shard).take(40).collect();
    let later: Vec<(&str, i64)> = later.iter().map(|player| (player.as_str(), 2)).collect();
    world.store(generation, period, &[&[("early", 3)][..], &later].concat()).await;
    let shows = async || standing_of(&world, &game, "early").await["entry"]["score"] == 3;
    hide(&world, generation, true);
    assert!(shows().await, "from Postgres");
    hide(&world, generation, false);
    world.publish(generation, EPOCH, version_of(&world, later[39].0).await, &later).await;
    let looked = std::time::Instant::now();
    while looked.elapsed() < Duration::from_millis(1_500) {
        assert!(shows().await, "Redis has only the later ones");
    }
    world.publish(generation, EPOCH, version_of(&world, "early").await, &[("early", 3), ("only-redis", 1)]).await;
    eventually("Redis answers", Duration::from_secs(5), async || {
        assert!(shows().await);
        standing_of(&world, &game, "only-redis").await["total"] == 42
    })
    .await;
}

#[tokio::test]
async fn a_version_that_postgres_showed_does_not_go_back_when_redis_returns() {
    // Whoever hears of no version knows of what was shown.
    let world = World::deaf().await;
    let game = world.game("demo").await;
    let generation = world.board(&game, board("global")).await;
    let period = periods::ensure(&world.db.pool, generation, &Period::WHOLE).await.unwrap();
    world.store(generation, period, &[("a", 3)]).await;
    world.make_ready(generation).await;
    let version = async || standing_of(&world, &game, "a").await["version"].as_i64().unwrap();
    let in_redis = version().await;
    // A fold of which Redis has the entries: their board has lost a version that was given before.
    let mut connection = world.db.pool.acquire().await.unwrap();
    board_versions::note(&mut connection, &[(generation.0, 1)].into(), 1).await.unwrap();
    hide(&world, generation, true);
    let in_postgres = version().await;
    assert!(in_postgres > in_redis);
    hide(&world, generation, false);
    let looked = std::time::Instant::now();
    while looked.elapsed() < Duration::from_millis(1_500) {
        assert_eq!(version().await, in_postgres, "Redis has an older one");
    }
    world.make_ready(generation).await;
    assert!(version().await > in_postgres, "Redis answers");
}

#[tokio::test]
async fn an_empty_board_is_not_shown_again_once_it_was_seen_with_entries() {
    let world = World::deaf().await;
    let game = world.game("demo").await;
    // What was read of Postgres is kept for half a second, in which a round is done unless the machine is very busy.
    for round in 0..5 {
        let slug = format!("b-{round}");
        let generation = world.board(&game, board(&slug)).await;
        let period = periods::ensure(&world.db.pool, generation, &Period::WHOLE).await.unwrap();
        let status =
            async || world.get(&format!("/v1/leaderboards/{slug}/entries/a"), Some(&game.client)).await.status.as_u16();
        eventually("the api knows the board", Duration::from_secs(5), async || status().await == 404).await;
        hide(&world, generation, true);
        assert_eq!(status().await, 404, "from Postgres");
        world.store(generation, period, &[("a", 3)]).await;
        world.make_ready(generation).await;
        assert_eq!(status().await, 200, "from Redis");
        hide(&world, generation, true);
        assert_eq!(status().await, 200, "from Postgres, as it is now");
    }
}

#[tokio::test]
async fn a_closed_period_that_leaves_redis_keeps_the_version_it_was_shown_under() {
    let world = World::new().await;
    let game = world.game("demo").await;
    let (generation, stored, last) = world.last_week(&game, board("global")).await;
    world.store(generation, stored, &[("a", 3)]).await;
    world.make_ready(generation).await;
    let close = async |change: &'static str| {
        sqlx::query(change).bind(stored.id).execute(&world.db.pool).await.unwrap();
    };
    close(
        "INSERT INTO period_standings
                (period_id, rank, competition_rank, player_id, score, subscore, reached_at, plays)
         VALUES ($1, 1, 1, 'a', 3, 0, 'epoch', 1)",
    )
    .await;
    // It was closed long before the last fold of another period, which gave the board its version.
    close("UPDATE leaderboard_periods SET state = 'closed', entry_count = 1, closed_at = 'epoch' WHERE id = $1").await;
    let version = async || {
        let answer = standing_of(&world, &game, "a?period=previous").await;
        assert_eq!(answer["entry"]["score"], 3);
        answer["version"].as_i64().unwrap()
    };
    let in_redis = version().await;
    close("UPDATE leaderboard_periods SET unpublished_at = now() WHERE id = $1").await;
    assert!(world.ranking.remove_period(generation, &last, Still::InEra("")).await.unwrap());
    assert_eq!(version().await, in_redis, "what is final has one version");
}

/// The period in which now falls, as the api made it.
pub async fn read_current(world: &World, game: &Game) -> StoredPeriod {
    let answer = world.get("/v1/leaderboards/global/entries", Some(&game.client)).await.json();
    let live = sqlx::query_scalar("SELECT generation_id FROM leaderboard_periods WHERE id = $1");
    let id = answer["period"]["id"].as_i64().unwrap();
    let live = BoardGenerationId(live.bind(id).fetch_one(&world.db.pool).await.unwrap());
    periods::by_id(&world.db.pool, live, id).await.unwrap().unwrap()
}
