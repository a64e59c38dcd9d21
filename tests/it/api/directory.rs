//! The directory: published, followed, and kept while Redis is away.

use std::time::Duration;

use scoreline::directory::DirectorySource;
use scoreline::domain::ids::Slug;
use scoreline::redis_connection::{Connection, Timeouts};
use scoreline::services::directory_publication::publish_if_stale;
use scoreline::store::audit_log::Actor;
use scoreline::store::games;
use tokio_util::sync::CancellationToken;

use crate::support::{self, eventually};

const WAIT: Duration = Duration::from_secs(10);

async fn create(db: &support::postgres::TestDatabase, slug: &str) {
    let mut tx = db.pool.begin().await.unwrap();
    games::create(&mut tx, &Slug::parse(slug).unwrap(), slug, Actor::CommandLine).await.unwrap().unwrap();
    tx.commit().await.unwrap();
}

fn open(url: &str) -> Connection {
    Connection::open(url, Timeouts::default()).unwrap()
}

#[tokio::test]
async fn a_process_waits_for_the_first_snapshot_and_stops_when_told() {
    let (db, redis) = (support::postgres::database().await, support::redis::redis());
    let stop = CancellationToken::new();
    let source = DirectorySource::open(&redis.url, "sl").unwrap();
    let waiting = tokio::spawn({
        let (source, stop) = (source.clone(), stop.clone());
        async move { source.wait_for_first(None, &stop).await }
    });
    create(&db, "one").await;
    let mut connection = open(&redis.url);
    assert!(publish_if_stale(&db.pool, &mut connection, "sl").await.unwrap());
    assert!(!publish_if_stale(&db.pool, &mut connection, "sl").await.unwrap(), "nothing changed");
    assert!(waiting.await.unwrap().unwrap().load().games.contains_key("one"));
    let elsewhere = DirectorySource::open(&redis.url, "other").unwrap();
    stop.cancel();
    assert!(elsewhere.wait_for_first(None, &stop).await.is_none());
}

#[tokio::test]
async fn the_last_snapshot_stays_while_redis_is_away_or_empty() {
    let (db, mut redis) = (support::postgres::database().await, support::redis::redis());
    let stop = CancellationToken::new();
    create(&db, "one").await;
    let url = redis.url.clone();
    let publish = async || {
        let mut connection = open(&url);
        publish_if_stale(&db.pool, &mut connection, "sl").await.unwrap()
    };
    publish().await;
    let source = DirectorySource::open(&redis.url, "sl").unwrap();
    let shared = source.wait_for_first(None, &stop).await.unwrap();
    let following = tokio::spawn(source.follow(shared.clone(), stop.clone()));
    let knows = |slug: &'static str| {
        let shared = shared.clone();
        move || {
            let known = shared.load().games.contains_key(slug);
            async move { known }
        }
    };
    create(&db, "two").await;
    publish().await;
    eventually("a notice brings the change", WAIT, knows("two")).await;
    redis.kill();
    redis.start();
    redis::cmd("FLUSHALL").exec(&mut redis.connection()).unwrap();
    assert!(knows("one")().await);
    create(&db, "three").await;
    assert!(publish().await, "what was flushed is published again");
    eventually("it follows again", WAIT, knows("three")).await;
    stop.cancel();
    following.await.unwrap();
}

#[tokio::test]
async fn a_slow_publisher_cannot_go_back_in_time_but_a_restored_database_can() {
    let (db, redis) = (support::postgres::database().await, support::redis::redis());
    let mut connection = open(&redis.url);
    create(&db, "one").await;
    publish_if_stale(&db.pool, &mut connection, "sl").await.unwrap();
    let version =
        |c: &mut redis::Connection| -> i64 { redis::cmd("HGET").arg("sl:directory").arg("version").query(c).unwrap() };
    assert_eq!(version(&mut redis.connection()), 2);
    sqlx::query("UPDATE directory_version SET version = 1").execute(&db.pool).await.unwrap();
    assert!(publish_if_stale(&db.pool, &mut connection, "sl").await.unwrap(), "restored from a backup");
    assert_eq!(version(&mut redis.connection()), 1);
    // Many publishers at once: the newest wins.
    let creating: Vec<_> = (0..8).map(|i| format!("game-{i}")).collect();
    let tasks = creating.iter().map(|slug| {
        let (pool, db, redis) = (db.pool.clone(), &db, &redis);
        async move {
            create(db, slug).await;
            let mut connection = open(&redis.url);
            publish_if_stale(&pool, &mut connection, "sl").await.unwrap();
        }
    });
    futures_util::future::join_all(tasks).await;
    assert_eq!(version(&mut redis.connection()), 9);
    let directory = scoreline::directory::follow::load(&mut connection, "sl").await.unwrap().unwrap();
    assert_eq!(directory.games.len(), 9);
}

#[tokio::test]
async fn the_same_version_of_another_history_is_published_and_read() {
    let (db, redis) = (support::postgres::database().await, support::redis::redis());
    let mut connection = open(&redis.url);
    create(&db, "lost").await;
    publish_if_stale(&db.pool, &mut connection, "sl").await.unwrap();
    let stop = CancellationToken::new();
    let source = DirectorySource::open(&redis.url, "sl").unwrap();
    let shared = source.wait_for_first(None, &stop).await.unwrap();
    let following = tokio::spawn(source.follow(shared.clone(), stop.clone()));
    // Restored from a backup, and changed as often as before.
    sqlx::raw_sql("DELETE FROM games; UPDATE directory_version SET version = version - 1")
        .execute(&db.pool)
        .await
        .unwrap();
    create(&db, "kept").await;
    assert_eq!(scoreline::store::directory::version(&db.pool).await.unwrap().0, shared.load().version);
    assert!(publish_if_stale(&db.pool, &mut connection, "sl").await.unwrap());
    assert!(!publish_if_stale(&db.pool, &mut connection, "sl").await.unwrap(), "once");
    eventually("it is read", WAIT, || async {
        let directory = shared.load();
        directory.games.len() == 1 && directory.games.keys().all(|slug| slug.as_str() == "kept")
    })
    .await;
    stop.cancel();
    following.await.unwrap();
}

#[tokio::test]
async fn a_board_that_cannot_be_read_keeps_no_revoked_key() {
    let (db, redis) = (support::postgres::database().await, support::redis::redis());
    let mut connection = open(&redis.url);
    create(&db, "one").await;
    sqlx::raw_sql(
        "INSERT INTO api_keys (game_id, kind, key_sha256, hint) SELECT id, 'server', sha256('first'), 'f' FROM games;
         INSERT INTO api_keys (game_id, kind, key_sha256, hint) SELECT id, 'server', sha256('second'), 's' FROM games;
         INSERT INTO leaderboards (game_id, slug, spec)
         SELECT id, 'future', '{\"slug\":\"future\",\"event_type\":\"t\",\"score\":\"/s\",\"reset\":\"lunar\"}' FROM games;
         UPDATE directory_version SET version = version + 1;",
    )
    .execute(&db.pool)
    .await
    .unwrap();
    publish_if_stale(&db.pool, &mut connection, "sl").await.unwrap();
    let stop = CancellationToken::new();
    let source = DirectorySource::open(&redis.url, "sl").unwrap();
    let shared = source.wait_for_first(None, &stop).await.unwrap();
    let following = tokio::spawn(source.follow(shared.clone(), stop.clone()));
    assert!(shared.load().authenticate("first").is_some() && shared.load().authenticate("second").is_some());
    sqlx::raw_sql(
        "UPDATE api_keys SET revoked_at = now() WHERE key_sha256 = sha256('first');
         UPDATE directory_version SET version = version + 1;",
    )
    .execute(&db.pool)
    .await
    .unwrap();
    publish_if_stale(&db.pool, &mut connection, "sl").await.unwrap();
    eventually("the key is refused", WAIT, || async { shared.load().authenticate("first").is_none() }).await;
    assert!(shared.load().authenticate("second").is_some());
    // Who publishes hands on what it cannot read.
    let json: std::collections::HashMap<String, String> =
        redis::cmd("HGETALL").arg("sl:directory").query(&mut redis.connection()).unwrap();
    assert!(json.values().any(|game| game.contains("lunar")), "{json:?}");
    stop.cancel();
    following.await.unwrap();
}

/// Bytes that Redis was sent, and that it sent, so far.
fn traffic(redis: &mut redis::Connection) -> (u64, u64) {
    let info: String = redis::cmd("INFO").arg("stats").query(redis).unwrap();
    let of = |name: &str| info.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim().parse().unwrap();
    (of("total_net_input_bytes:"), of("total_net_output_bytes:"))
}

/// Many games with boards, followed by a process; `edit` gives one of them a key of this text and publishes.
struct Followed {
    db: support::postgres::TestDatabase,
    redis: support::redis::TestRedis,
    shared: scoreline::directory::SharedDirectory,
    stop: CancellationToken,
    games: i32,
}

impl Followed {
    async fn new(games: i32, boards: i32) -> Self {
        let (db, redis) = (support::postgres::database().await, support::redis::redis());
        sqlx::raw_sql(sqlx::AssertSqlSafe(format!(
            "INSERT INTO games (slug, name) SELECT 'g-' || n, 'G' FROM generate_series(1, {games}) n;
             INSERT INTO leaderboards (game_id, slug, spec)
             SELECT g.id, 'b-' || n, jsonb_build_object('slug', 'b-' || n, 'event_type', 't', 'score', '/score',
                                                        'name', repeat('a name ', 20))
               FROM games g, generate_series(1, {boards}) n;
             INSERT INTO leaderboard_generations (leaderboard_id, since_generation, spec, state)
             SELECT id, 1, spec, 'live' FROM leaderboards;
             UPDATE directory_version SET version = version + 1;"
        )))
        .execute(&db.pool)
        .await
        .unwrap();
        let stop = CancellationToken::new();
        let source = DirectorySource::open(&redis.url, "sl").unwrap();
        let followed = Self { shared: Default::default(), db, redis, stop, games };
        followed.publish().await;
        let shared = source.wait_for_first(None, &followed.stop).await.unwrap();
        tokio::spawn(source.follow(shared.clone(), followed.stop.clone()));
        Self { shared, ..followed }
    }

    async fn publish(&self) {
        let mut connection = open(&self.redis.url);
        publish_if_stale(&self.db.pool, &mut connection, "sl").await.unwrap();
    }

    async fn edit(&self, game: i32, key: &str) {
        let text = format!(
            "INSERT INTO api_keys (game_id, kind, key_sha256, hint) VALUES ({game}, 'server', sha256('{key}'), 'h');
             UPDATE directory_version SET version = version + 1;"
        );
        sqlx::raw_sql(sqlx::AssertSqlSafe(text)).execute(&self.db.pool).await.unwrap();
        self.publish().await;
    }

    /// Waits until the follower knows this key, and has what whoever reads the whole has.
    async fn knows(&self, key: &str) {
        eventually(key, WAIT, || async { self.shared.load().authenticate(key).is_some() }).await;
        let mut connection = open(&self.redis.url);
        let (whole, held) =
            (scoreline::directory::load(&mut connection, "sl").await.unwrap().unwrap(), self.shared.load());
        assert_eq!((whole.version, &whole.mark, whole.keys.len()), (held.version, &held.mark, held.keys.len()));
        assert_eq!(whole.games.len(), held.games.len());
        for (slug, game) in &whole.games {
            let other = &held.games[slug];
            assert_eq!((game.id, game.leaderboards.len()), (other.id, other.leaderboards.len()), "{slug:?}");
        }
    }

    fn whole(&self) -> u64 {
        let texts: Vec<String> = redis::cmd("HVALS").arg("sl:directory").query(&mut self.redis.connection()).unwrap();
        texts.iter().map(|text| text.len() as u64).sum()
    }
}

#[tokio::test]
async fn an_edit_sends_and_reads_the_text_of_its_game_only() {
    let followed = Followed::new(40, 5).await;
    let whole = followed.whole();
    // Rows of every game lie elsewhere now: their order is no change.
    let moved = "UPDATE leaderboards SET updated_at = now() WHERE slug = 'b-1'";
    sqlx::query(moved).execute(&followed.db.pool).await.unwrap();
    let mut redis = followed.redis.connection();
    let (sent_before, read_before) = traffic(&mut redis);
    followed.edit(7, "first").await;
    eventually("it is known", WAIT, || async { followed.shared.load().authenticate("first").is_some() }).await;
    let (sent, read) = traffic(&mut redis);
    let (sent, read) = (sent - sent_before, read - read_before);
    assert!(whole > 100_000 && sent < whole / 4 && read < whole / 4, "{sent} and {read} of {whole}");
    followed.knows("first").await;
    let held = followed.shared.load_full();
    // A game that is gone is gone, and another one is there.
    sqlx::raw_sql(
        "DELETE FROM leaderboard_generations WHERE leaderboard_id IN (SELECT id FROM leaderboards WHERE game_id = 9);
         DELETE FROM leaderboards WHERE game_id = 9; DELETE FROM games WHERE id = 9;
         INSERT INTO games (slug, name) VALUES ('new', 'N');",
    )
    .execute(&followed.db.pool)
    .await
    .unwrap();
    followed.edit(8, "second").await;
    followed.knows("second").await;
    let now = followed.shared.load();
    assert!(!now.games.contains_key("g-9") && now.games.contains_key("new"));
    assert!(std::sync::Arc::ptr_eq(&held.games["g-1"], &now.games["g-1"]), "what did not change was not read again");
    assert_eq!(i32::try_from(now.games.len()).unwrap(), followed.games);
    followed.stop.cancel();
}

/// Programs that keep no digests publish beside it while a release rolls out; and a Redis forgets.
#[tokio::test]
async fn digests_of_another_version_or_none_are_not_relied_on() {
    let followed = Followed::new(12, 1).await;
    followed.edit(3, "first").await;
    followed.knows("first").await;
    // A publisher of before: the whole, and no digests.
    let change =
        "INSERT INTO api_keys (game_id, kind, key_sha256, hint) VALUES (4, 'server', sha256('of before'), 'h');
                  UPDATE directory_version SET version = version + 1;";
    sqlx::raw_sql(change).execute(&followed.db.pool).await.unwrap();
    let snapshot = scoreline::store::directory::snapshot(&followed.db.pool).await.unwrap();
    let mut all = redis::pipe();
    all.atomic().del("sl:directory");
    all.hset("sl:directory", "version", snapshot.version).hset("sl:directory", "mark", &snapshot.mark);
    for game in &snapshot.games {
        all.hset("sl:directory", format!("g:{}", game.id), &game.json);
    }
    all.publish("sl:directory", snapshot.version);
    all.exec(&mut followed.redis.connection()).unwrap();
    followed.knows("of before").await;
    followed.edit(5, "after it").await;
    followed.knows("after it").await;
    for (turn, lost) in ["sl:directory", "{sl:directory}:digests"].into_iter().enumerate() {
        redis::cmd("DEL").arg(lost).exec(&mut followed.redis.connection()).unwrap();
        let key = format!("without {turn}");
        followed.edit(6, &key).await;
        followed.knows(&key).await;
    }
    redis::cmd("FLUSHALL").exec(&mut followed.redis.connection()).unwrap();
    followed.edit(6, "after all").await;
    followed.knows("after all").await;
    followed.stop.cancel();
}

/// It knows of each before that is published, so each poll finds an older version.
#[tokio::test]
async fn a_process_that_makes_one_change_after_another_does_not_go_back() {
    let followed = Followed::new(3, 1).await;
    let began = std::time::Instant::now();
    let mut last = followed.shared.load().version;
    // Longer than three polls.
    while began.elapsed() < Duration::from_millis(3_500) {
        let mut snapshot = scoreline::store::directory::snapshot(&followed.db.pool).await.unwrap();
        snapshot.version += 2;
        let held = followed.shared.load().version;
        assert!(held >= last, "{held} after {last}");
        last = snapshot.version;
        followed.shared.store(std::sync::Arc::new(followed.shared.load().next(snapshot)));
        let change = "UPDATE directory_version SET version = version + 1";
        sqlx::query(change).execute(&followed.db.pool).await.unwrap();
        followed.publish().await;
        support::look_again().await;
    }
    followed.stop.cancel();
}

/// Whoever is revoked since the backup was taken, or makes changes after it was restored.
#[tokio::test]
async fn a_restored_directory_is_read_while_somebody_changes_it_all_the_time() {
    let followed = Followed::new(3, 1).await;
    let later = "UPDATE directory_version SET version = 1000000";
    sqlx::query(later).execute(&followed.db.pool).await.unwrap();
    followed.edit(1, "lost").await;
    followed.knows("lost").await;
    sqlx::raw_sql("DELETE FROM api_keys; UPDATE directory_version SET version = 700")
        .execute(&followed.db.pool)
        .await
        .unwrap();
    let edits = std::cell::Cell::new(0);
    eventually("the key of the lost future is refused", WAIT, async || {
        edits.set(edits.get() + 1);
        followed.edit(2, &format!("edit {}", edits.get())).await;
        followed.shared.load().authenticate("lost").is_none()
    })
    .await;
    followed.knows(&format!("edit {}", edits.get())).await;
    followed.stop.cancel();
}
