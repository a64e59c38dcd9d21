//! A database that goes back in time: a backup restored, or a replica promoted without the last commits. Boards do not
//! keep what it lost, and nothing new is taken for old.

use scoreline::aggregator::history::History;
use scoreline::aggregator::rebuild::check_boards;
use scoreline::domain::ids::BoardGenerationId;
use scoreline::ranking::{BoardStatus, Still};
use scoreline::store::beacons;
use scoreline::store::standings::small_board;
use serde_json::json;

use super::arena::{Arena, play, seconds};

/// What a backup keeps of the tables that a fold writes.
const BACK_UP: &str = "
    CREATE TABLE past_entries AS TABLE leaderboard_entries;
    CREATE TABLE past_versions AS TABLE board_versions;
    CREATE TABLE past_beacons AS TABLE beacons;
    CREATE TABLE past_counters AS
        SELECT (SELECT last_value FROM entry_version) AS entry_version,
               (SELECT last_value FROM beacons_sequence_seq) AS beacon;";
/// The database is as it was when it was backed up, counters too.
const GO_BACK: &str = "
    DELETE FROM leaderboard_entries; INSERT INTO leaderboard_entries SELECT * FROM past_entries;
    DELETE FROM board_versions; INSERT INTO board_versions SELECT * FROM past_versions;
    DELETE FROM beacons; INSERT INTO beacons OVERRIDING SYSTEM VALUE SELECT * FROM past_beacons;
    DELETE FROM dirty_entries;
    SELECT setval('entry_version', entry_version), setval('beacons_sequence_seq', beacon) FROM past_counters;";

async fn run(arena: &Arena, script: &'static str) {
    sqlx::raw_sql(script).execute(&mut arena.database.superuser().await).await.unwrap();
}

async fn look(arena: &Arena) {
    History::new(arena.pool(), &arena.ranking, &arena.rules).look(true).await.unwrap();
}

async fn status(arena: &Arena, board: BoardGenerationId) -> BoardStatus {
    arena.ranking.status(&[board]).await.unwrap()[0]
}

/// A daily board in Redis with a closed period and an open one, made in an era.
async fn two_days(arena: &Arena) -> BoardGenerationId {
    let board = arena.board("daily", json!({"reset": "daily"})).await;
    look(arena).await;
    arena.rebuild(board).await;
    arena.score(board, &[play("a", 5, 0), play("a", 5, 86_400)]).await;
    run(arena, "UPDATE leaderboard_periods SET state = 'closed', closed_at = now() WHERE id = 1").await;
    board
}

async fn day(arena: &Arena, board: BoardGenerationId, day: i64) -> Vec<(u64, String, i64)> {
    let period = arena.rules.board(board).unwrap().schedule.period_at(seconds(day * 86_400));
    arena.top_of(&scoreline::ranking::BoardPeriod { period, ..arena.whole(board) }).await
}

#[tokio::test]
async fn a_restored_database_has_every_period_rebuilt() {
    let arena = Arena::new().await;
    let board = two_days(&arena).await;
    run(&arena, BACK_UP).await;
    // What the backup does not have: scores of both days, and beacons.
    arena
        .score(board, &[play("a", 60, 1), play("ghost", 70, 1), play("a", 60, 86_401), play("ghost", 70, 86_401)])
        .await;
    run(&arena, "UPDATE leaderboard_periods SET state = 'open' WHERE id = 1").await;
    arena.score(board, &[play("a", 60, 2), play("ghost", 70, 2)]).await;
    run(&arena, "UPDATE leaderboard_periods SET state = 'closed' WHERE id = 1").await;
    look(&arena).await;
    assert_eq!(status(&arena, board).await, BoardStatus::Ready);
    run(&arena, GO_BACK).await;
    arena.score(board, &[play("b", 7, 86_402)]).await;
    look(&arena).await;
    assert_eq!(status(&arena, board).await, BoardStatus::Doubtful);
    check_boards(arena.pool(), &arena.ranking, &arena.rules).await.unwrap();
    assert_eq!(status(&arena, board).await, BoardStatus::Ready);
    assert_eq!(day(&arena, board, 0).await, [(1, "a".into(), 5)], "a closed period too");
    assert_eq!(day(&arena, board, 1).await, [(1, "b".into(), 7), (2, "a".into(), 5)]);
}

#[tokio::test]
async fn the_same_number_of_beacons_is_not_the_same_history() {
    let arena = Arena::new().await;
    let board = two_days(&arena).await;
    run(&arena, BACK_UP).await;
    let attest = || scoreline::services::beacon::attest(arena.pool(), &arena.ranking);
    attest().await.unwrap();
    let told = arena.ranking.beacon().await.unwrap().unwrap();
    run(&arena, GO_BACK).await;
    // The restored database writes as many, and more, before anybody looks.
    for _ in 0..3 {
        beacons::write(arena.pool()).await.unwrap();
    }
    attest().await.unwrap();
    assert_eq!(arena.ranking.beacon().await.unwrap(), Some(told), "what does not stand is not covered up");
    look(&arena).await;
    assert_eq!(status(&arena, board).await, BoardStatus::Doubtful);
}

#[tokio::test]
async fn a_promotion_makes_every_board_doubtful() {
    let arena = Arena::new().await;
    let board = two_days(&arena).await;
    assert_eq!(status(&arena, board).await, BoardStatus::Ready);
    // Beacons of before the promotion are on another timeline.
    run(&arena, "UPDATE beacons SET timeline = '00000000'").await;
    look(&arena).await;
    assert_eq!(status(&arena, board).await, BoardStatus::Doubtful);
}

/// A cron that was frozen while Postgres was restored thaws: the period that it takes for closed long ago is open.
#[tokio::test]
async fn who_was_frozen_while_the_database_went_back_takes_no_period_away() {
    let arena = Arena::new().await;
    let board = two_days(&arena).await;
    let era = arena.ranking.era().await.unwrap();
    run(&arena, "UPDATE beacons SET timeline = '00000000'").await;
    look(&arena).await;
    arena.rebuild(board).await;
    let period = arena.rules.board(board).unwrap().schedule.period_at(seconds(0));
    assert!(!arena.ranking.remove_period(board, &period, Still::InEra(&era)).await.unwrap());
    assert_eq!(day(&arena, board, 0).await, [(1, "a".into(), 5)]);
    let era = arena.ranking.era().await.unwrap();
    assert!(arena.ranking.remove_period(board, &period, Still::InEra(&era)).await.unwrap());
}

#[tokio::test]
async fn a_database_that_did_not_go_back_is_not_doubted() {
    let arena = Arena::new().await;
    let board = two_days(&arena).await;
    let era = arena.ranking.beacon().await.unwrap().unwrap().era;
    for _ in 0..3 {
        look(&arena).await;
        arena.rebuild(board).await;
    }
    assert_eq!(arena.ranking.beacon().await.unwrap().unwrap().era, era);
    assert_eq!(status(&arena, board).await, BoardStatus::Ready);
}

#[tokio::test]
async fn a_generation_of_the_lost_future_is_not_taken_for_the_new_one() {
    let arena = Arena::new().await;
    let board = two_days(&arena).await;
    // Nobody knows the board of this number when the era begins; later one is made that gets it.
    run(
        &arena,
        "UPDATE leaderboard_generations SET state = 'retired'; UPDATE directory_version SET version = version + 1;",
    )
    .await;
    arena.rules.refresh().await.unwrap();
    run(&arena, "DELETE FROM beacons").await;
    look(&arena).await;
    assert_eq!(status(&arena, board).await, BoardStatus::Doubtful);
}

/// The number of a generation that was lost may be given out again before anybody notices.
#[tokio::test]
async fn a_new_era_counts_by_the_definitions_of_its_own_history() {
    let arena = Arena::new().await;
    let board = arena.board("b", json!({"operator": "best"})).await;
    look(&arena).await;
    run(&arena, "UPDATE leaderboard_generations SET spec = spec || '{\"operator\": \"set\"}'; DELETE FROM beacons")
        .await;
    look(&arena).await;
    arena.rebuild(board).await;
    arena.score(board, &[play("a", 5, 0), play("a", 2, 1)]).await;
    assert_eq!(arena.top(board).await, [(1, "a".into(), 2)], "the latest and not the best");
}

/// What somebody has read of Redis may be of before a beacon, or an era, that another told of since.
#[tokio::test]
async fn who_has_read_an_older_beacon_covers_no_newer_one_up() {
    let arena = Arena::new().await;
    look(&arena).await;
    let read = arena.ranking.beacon().await.unwrap().unwrap();
    assert!(arena.ranking.begin_era(Some(&read), 100, uuid::Uuid::from_u128(1)).await.unwrap());
    let told = arena.ranking.beacon().await.unwrap().unwrap();
    assert_ne!(told.era, read.era);
    assert!(!arena.ranking.tell_beacon(&read, 101, uuid::Uuid::from_u128(2)).await.unwrap(), "its era is over");
    assert!(!arena.ranking.begin_era(Some(&read), 102, uuid::Uuid::from_u128(3)).await.unwrap(), "it has begun");
    assert_eq!(arena.ranking.beacon().await.unwrap(), Some(told));
}

/// Jobs in the queue, receipts and boards name what was lost by its id.
#[tokio::test]
async fn ids_of_the_lost_future_are_not_given_again() {
    let arena = Arena::new().await;
    two_days(&arena).await;
    const TABLES: [&str; 4] = ["games", "api_keys", "leaderboards", "leaderboard_generations"];
    let mut lost = Vec::new();
    for table in TABLES {
        let next = format!("SELECT nextval('{table}_id_seq')");
        lost.push(arena.count(sqlx::AssertSqlSafe(next)).await);
        let back = format!("SELECT setval('{table}_id_seq', 1)");
        arena.count(sqlx::AssertSqlSafe(back)).await;
    }
    look(&arena).await;
    assert_eq!(arena.count("SELECT nextval('games_id_seq')").await, 2, "nothing is left out while nothing was lost");
    run(&arena, "DELETE FROM beacons").await;
    look(&arena).await;
    for (table, lost) in TABLES.into_iter().zip(lost) {
        let next = arena.count(sqlx::AssertSqlSafe(format!("SELECT nextval('{table}_id_seq')"))).await;
        assert!(next > lost && next < 1_000_000, "{table}: {next} after {lost}");
    }
}

#[tokio::test]
async fn entry_versions_are_ahead_of_the_lost_future() {
    let arena = Arena::new().await;
    let board = arena.board("b", json!({"operator": "set"})).await;
    arena.rebuild(board).await;
    // In the future that will be lost the sequence has followed the clock.
    run(&arena, "SELECT setval('entry_version', (extract(epoch FROM clock_timestamp()) * 1000000)::bigint)").await;
    arena.score(board, &[play("a", 1, 0)]).await;
    let before = arena.entries(board).await["a"].3;
    run(&arena, "SELECT setval('entry_version', 5)").await;
    arena.score(board, &[play("a", 2, 1)]).await;
    assert!(arena.entries(board).await["a"].3 > before);
    assert_eq!(arena.top(board).await, [(1, "a".into(), 2)], "Redis does not take it for an old one");
}

#[tokio::test]
async fn a_slow_fold_that_has_caught_up_keeps_no_other_waiting() {
    let arena = Arena::new().await;
    run(&arena, "SELECT setval('entry_version', 5)").await;
    let mut slow = arena.pool().begin().await.unwrap();
    let first = scoreline::store::markers::next_version(&mut slow).await.unwrap();
    // As if it had been a while ago: others are behind again.
    run(&arena, "SELECT setval('entry_version', last_value - 10000000) FROM entry_version").await;
    let mut other = arena.pool().begin().await.unwrap();
    let taken = scoreline::store::markers::next_version(&mut other);
    let second = tokio::time::timeout(std::time::Duration::from_secs(10), taken).await.expect("nobody waits").unwrap();
    assert!((first - 10_000_000..first).contains(&second), "it grows from where the sequence is");
    other.commit().await.unwrap();
    slow.commit().await.unwrap();
}

#[tokio::test]
async fn two_folds_that_catch_up_at_once_have_two_versions() {
    let arena = Arena::new().await;
    run(&arena, "SELECT setval('entry_version', 5)").await;
    let take = async || {
        let mut transaction = arena.pool().begin().await.unwrap();
        let version = scoreline::store::markers::next_version(&mut transaction).await.unwrap();
        transaction.commit().await.unwrap();
        version
    };
    let mut versions: Vec<i64> = futures_util::future::join_all((0..20).map(|_| take())).await;
    versions.sort_unstable();
    versions.dedup();
    assert_eq!(versions.len(), 20, "{versions:?}");
    assert!(versions[0] > 1_700_000_000_000_000, "microseconds of the clock: {versions:?}");
}

/// Setting it once more would issue again what others were given in between.
#[tokio::test]
async fn a_fold_that_finds_the_versions_caught_up_takes_the_next_one() {
    let arena = Arena::new().await;
    let mut other = arena.pool().begin().await.unwrap();
    sqlx::query("SELECT pg_advisory_xact_lock(7305881)").execute(&mut *other).await.unwrap();
    // The clock was ahead, and has stepped back; the other fold is not over.
    let ahead = "SELECT setval('entry_version', (extract(epoch FROM clock_timestamp()) * 1000000)::bigint + 9000000)";
    let ahead = arena.count(ahead).await;
    let mut late = arena.pool().begin().await.unwrap();
    let version = scoreline::store::markers::next_version(&mut late).await.unwrap();
    late.commit().await.unwrap();
    other.rollback().await.unwrap();
    assert!(version > ahead, "{version} after {ahead}");
}

#[tokio::test]
async fn postgres_and_redis_answer_under_one_version() {
    let arena = Arena::new().await;
    let board = arena.board("daily", json!({"reset": "daily"})).await;
    let rebuilt = arena.rebuild(board).await;
    assert_eq!(arena.ranking.version(board).await.unwrap(), Some(rebuilt.version));
    let mut last = rebuilt.version;
    for round in 1..4 {
        // Of two days: two calls.
        let at = |day: i64| move |player| play(player, round, 86_400 * day + round);
        let plays = [["a", "b", "c"].map(at(0)), ["a", "b", "c"].map(at(1))].concat();
        arena.score(board, &plays).await;
        let redis = arena.ranking.version(board).await.unwrap().unwrap();
        for day in [1, 2] {
            let postgres = small_board(arena.pool(), day, 100).await.unwrap().unwrap();
            assert_eq!((postgres.version, postgres.entries.len()), (redis, 3), "round {round}");
        }
        assert!(redis > last);
        last = redis;
    }
    let rebuilt = arena.rebuild(board).await;
    assert_eq!(small_board(arena.pool(), 1, 100).await.unwrap().unwrap().version, rebuilt.version);
}

#[tokio::test]
async fn a_version_never_comes_twice_though_redis_lost_some() {
    let arena = Arena::new().await;
    let board = arena.board("b", json!({})).await;
    arena.rebuild(board).await;
    let key = format!("{{sl:b3:{board}}}:version");
    let mut seen = Vec::new();
    let mut round = 0;
    // Redis as it was before (it crashed, or a replica that lagged took over), and without the version (it evicted it).
    for lose in ["nothing", "back", "gone"] {
        for _ in 0..2 {
            round += 1;
            arena.score(board, &[play("a", round, round)]).await;
            seen.push(arena.ranking.version(board).await.unwrap().unwrap());
        }
        let mut connection = arena.redis.connection();
        match lose {
            "back" => redis::cmd("SET").arg(&key).arg(seen[0]).exec(&mut connection).unwrap(),
            "gone" => redis::cmd("DEL").arg(&key).exec(&mut connection).unwrap(),
            _ => {}
        }
        // Who publishes finds that Redis lacks something, and the board is rebuilt.
        round += 1;
        arena.score(board, &[play("a", round, round)]).await;
        check_boards(arena.pool(), &arena.ranking, &arena.rules).await.unwrap();
        seen.push(arena.ranking.version(board).await.unwrap().unwrap());
    }
    arena.score(board, &[play("a", 100, 100)]).await;
    seen.push(arena.ranking.version(board).await.unwrap().unwrap());
    assert!(seen.is_sorted_by(|a, b| a < b), "{seen:?}");
}

#[tokio::test]
async fn a_marker_of_a_newer_program_is_kept_and_doubts_every_board() {
    let arena = Arena::new().await;
    let board = arena.board("b", json!({})).await;
    arena.rebuild(board).await;
    run(&arena, "INSERT INTO dirty_entries (shard, entries) VALUES (0, '\\x09'), (0, '\\x01')").await;
    // A process that has just started knows no board yet.
    let fresh = std::sync::Arc::new(scoreline::aggregator::rules::Rules::new(arena.pool().clone()));
    let (pool, ranking, shards) = (arena.pool().clone(), arena.ranking.clone(), arena.shards.clone());
    let clock = scoreline::runtime::clock::system();
    let wanted = arena.wanted.clone();
    let mut publisher = scoreline::aggregator::publish::Publisher::new(pool, ranking, fresh, shards, clock, wanted);
    while publisher.publish_leftovers().await.unwrap() {}
    assert_eq!(status(&arena, board).await, BoardStatus::Doubtful);
    assert_eq!(arena.count("SELECT count(*) FROM dirty_entries WHERE shard = -1 AND entries = '\\x09'").await, 1);
    assert_eq!(arena.count("SELECT count(*) FROM dirty_entries").await, 1, "what is damaged says nothing to anybody");
    // Who waits for markers does not wait for it, and whoever folds the shard next may be able to read it.
    let mut connection = arena.pool().acquire().await.unwrap();
    assert_eq!(scoreline::store::markers::newest(&mut connection).await.unwrap(), 0);
    let bring_back = async |formats: &[u8]| {
        scoreline::store::markers::bring_back(arena.pool(), &[0], formats, i64::MIN, 10).await.unwrap()
    };
    // Who cannot read it either leaves it where it is: in vain it would have every board rebuilt once more.
    assert_eq!(bring_back(&scoreline::aggregator::marker::READABLE).await, None);
    assert!(bring_back(&[1, 9]).await.is_some());
    assert_eq!(arena.count("SELECT count(*) FROM dirty_entries WHERE shard = 0").await, 1);
}
