//! The audit finds what is wrong, repairs Redis and reports Postgres.

use std::sync::Arc;

use scoreline::aggregator::audit::audit_all_samples;
use scoreline::aggregator::close_periods::{close_due, unpublish_closed};
use scoreline::domain::board::CompiledBoard;
use scoreline::domain::clock::Micros;
use scoreline::domain::ranking_key::{Standing, write_place};
use scoreline::services::audit::audit_board;
use scoreline::services::audit::entries::audit_entries;
use scoreline::services::board_rebuild::rebuild_board;
use serde_json::json;

use super::stage::{Happening, Stage, at};

async fn published(stage: &Stage) -> Arc<CompiledBoard> {
    let board = stage.live("b", json!({})).await;
    let events: Vec<Happening> =
        (0..1_200).map(|n| stage.event(&format!("p-{n}"), n * 31 % 500, "2026-11-20T01:00:00Z")).collect();
    stage.accept(&events).await;
    stage.fold().await;
    // As if published: the markers are consumed and Redis has the board.
    sqlx::query("DELETE FROM dirty_entries").execute(stage.pool()).await.unwrap();
    let (id, order) = (board.generation.id, board.generation.spec.definition.order);
    rebuild_board(stage.pool(), &stage.ranking, id, order, "cron", |_| {}).await.unwrap();
    stage.rules.board(board.generation.id).unwrap()
}

#[tokio::test]
async fn an_audit_of_a_sound_board_is_clean() {
    let stage = Stage::new("2026-11-21T00:00:00Z").await;
    let board = published(&stage).await;
    let audit = audit_board(stage.pool(), &stage.ranking, &board, true, "cron", &stage.context.stop).await.unwrap();
    assert!(audit.is_clean(), "{audit:?}");
    assert_eq!((audit.redis.compared, audit.events.as_ref().unwrap().computed), (1_200, 1_200));
    assert!(serde_json::to_string(&audit).unwrap().contains("\"compared\":1200"));
    let tenure = stage.tenure("job-audit-boards").await;
    assert_eq!(audit_all_samples(&stage.context, &tenure).await.unwrap(), 0);
}

#[tokio::test]
async fn an_audit_finds_drift_in_redis_and_repairs_it() {
    let stage = Stage::new("2026-11-21T00:00:00Z").await;
    let board = published(&stage).await;
    let base = format!("{{sl:b3:{}}}:p:0..", board.generation.id);
    let mut connection = stage.redis.connection();
    let order = board.generation.spec.definition.order;
    let (rank, member) = (format!("{base}:rank"), format!("{base}:member"));
    let mut place_of = |player: &str| -> Vec<u8> {
        let value: Vec<u8> = redis::cmd("HGET").arg(&member).arg(player).query(&mut connection).unwrap();
        let colon = value.iter().position(|b| *b == b':').unwrap();
        value[colon + 1..].to_vec()
    };
    let meddle = |parts: &[&[u8]]| {
        let mut command = redis::cmd(std::str::from_utf8(parts[0]).unwrap());
        for part in &parts[1..] {
            command.arg(*part);
        }
        command.query::<redis::Value>(&mut stage.redis.connection()).unwrap();
    };
    let (rank, member) = (rank.as_bytes(), member.as_bytes());
    // Lost, changed, and one that nobody scored.
    meddle(&[b"ZREM", rank, &[&place_of("p-7")[..], b"p-7"].concat()]);
    meddle(&[b"HDEL", member, b"p-7"]);
    let place = place_of("p-8");
    meddle(&[b"ZREM", rank, &[&place[..], b"p-8"].concat()]);
    let mut forged = Vec::new();
    write_place(&mut forged, &Standing { score: 1_000_000, subscore: 0, reached_at: Micros(0) }, order);
    meddle(&[b"ZADD", rank, b"0", &[&forged[..], b"p-8"].concat()]);
    meddle(&[b"HSET", member, b"p-8", &[b"1:", &forged[..]].concat()]);
    for ghost in [&b"ghost-1"[..], b"ghost-2"] {
        meddle(&[b"ZADD", rank, b"0", &[&place[..], ghost].concat()]);
        meddle(&[b"HSET", member, ghost, &[b"1:", &place[..]].concat()]);
    }
    let audit = audit_board(stage.pool(), &stage.ranking, &board, false, "cron", &stage.context.stop).await.unwrap();
    assert_eq!((audit.redis.missing, audit.redis.different, audit.redis.extra), (1, 1, 2), "{audit:?}");
    assert!(audit.redis.repaired);
    let again = audit_board(stage.pool(), &stage.ranking, &board, false, "cron", &stage.context.stop).await.unwrap();
    assert!(again.is_clean(), "{again:?}");
    // One whose text is right and whose place is not.
    let moved = [&place_of("p-9")[..], b"p-9"].concat();
    for score in ["1e18", "-1e18"] {
        meddle(&[b"ZADD", rank, b"XX", score.as_bytes(), &moved]);
        let audit =
            audit_board(stage.pool(), &stage.ranking, &board, false, "cron", &stage.context.stop).await.unwrap();
        assert_eq!((audit.redis.missing, audit.redis.different, audit.redis.extra), (0, 1, 0), "{score} {audit:?}");
    }
}

#[tokio::test]
async fn an_audit_reports_entries_that_are_not_what_the_events_say_and_touches_nothing() {
    let stage = Stage::new("2026-11-21T00:00:00Z").await;
    let board = published(&stage).await;
    for statement in [
        "UPDATE leaderboard_entries SET score = score + 1 WHERE player_id = 'p-1'",
        "DELETE FROM leaderboard_entries WHERE player_id = 'p-2'",
        "INSERT INTO leaderboard_entries SELECT period_id, 'p-ghost', 1, 0, reached_at, event_id, 1, version FROM leaderboard_entries LIMIT 1",
    ] {
        sqlx::query(statement).execute(stage.pool()).await.unwrap();
    }
    let audit = audit_entries(stage.pool(), &board).await.unwrap().unwrap();
    assert_eq!(audit.differing, 3);
    let players: Vec<&str> = audit.differences.iter().map(|d| d.player_id.as_str()).collect();
    assert_eq!(players, ["p-1", "p-2", "p-ghost"]);
    assert!(audit.differences[1].stored.is_none() && audit.differences[2].computed.is_none());
    assert_eq!(audit_entries(stage.pool(), &board).await.unwrap().unwrap().differing, 3);
}

#[tokio::test]
async fn facts_that_wait_are_no_difference() {
    let stage = Stage::new("2026-11-21T00:00:00Z").await;
    let board = published(&stage).await;
    stage
        .accept(&[stage.event("p-1", 9_999, "2026-11-20T02:00:00Z"), stage.event("new", 1, "2026-11-20T02:00:00Z")])
        .await;
    let audit = audit_entries(stage.pool(), &board).await.unwrap().unwrap();
    assert_eq!((audit.computed, audit.differing), (1_201, 0), "{audit:?}");
}

/// The keys of a period, as the ranking names them.
fn keys(board: &CompiledBoard, start: Micros) -> [String; 2] {
    let end = board.schedule.period_at(start).ends_at.map_or(String::new(), |end| end.0.to_string());
    let base = format!("{{sl:b3:{}}}:p:{}..{end}", board.generation.id, start.0);
    ["rank", "member"].map(|name| format!("{base}:{name}"))
}

fn run(stage: &Stage, command: &mut redis::Cmd) {
    command.exec(&mut stage.redis.connection()).unwrap();
}

/// Takes an entry out of Redis, of both keys.
fn take_out(stage: &Stage, board: &CompiledBoard, start: Micros, player: &str) {
    let [rank, member] = keys(board, start);
    let value: Vec<u8> = redis::cmd("HGET").arg(&member).arg(player).query(&mut stage.redis.connection()).unwrap();
    let place = &value[value.iter().position(|byte| *byte == b':').unwrap() + 1..];
    run(stage, redis::cmd("ZREM").arg(&rank).arg([place, player.as_bytes()].concat()));
    run(stage, redis::cmd("HDEL").arg(&member).arg(player));
}

/// What autovacuum does some time.
async fn analyze(stage: &Stage) {
    let mut owner = stage.database.owner().await;
    sqlx::query("ANALYZE leaderboard_entries, leaderboard_periods").execute(&mut owner).await.unwrap();
}

#[tokio::test]
async fn the_hourly_audit_finds_what_is_missing_though_nobody_sampled_it() {
    let stage = Stage::new("2026-11-21T00:00:00Z").await;
    let board = published(&stage).await;
    let tenure = stage.tenure("job-audit-boards").await;
    // Of both keys: what is left looks whole.
    let lost = [&["rank"][..], &["member"], &["rank", "member"]];
    for names in lost {
        let keys = keys(&board, Micros::EPOCH);
        for key in keys.iter().filter(|key| names.iter().any(|name| key.ends_with(name))) {
            run(&stage, redis::cmd("DEL").arg(key));
        }
        assert!(audit_all_samples(&stage.context, &tenure).await.unwrap() >= 1_200, "{names:?}");
        assert_eq!(audit_all_samples(&stage.context, &tenure).await.unwrap(), 0, "{names:?}: repaired");
    }
    // A table of which a sample is nearly nothing.
    let grow = "INSERT INTO leaderboard_entries SELECT -1, 'x-' || n, 1, 0, now(), gen_random_uuid(), 1, 1
                  FROM generate_series(1, 400000) n";
    sqlx::query(grow).execute(stage.pool()).await.unwrap();
    analyze(&stage).await;
    take_out(&stage, &board, Micros::EPOCH, "p-7");
    assert_eq!(audit_all_samples(&stage.context, &tenure).await.unwrap(), 1);
    assert_eq!(audit_all_samples(&stage.context, &tenure).await.unwrap(), 0);
}

#[tokio::test]
async fn a_sample_is_of_the_whole_table_and_another_each_time() {
    let stage = Stage::new("2026-11-21T00:00:00Z").await;
    let board = stage.live("b", json!({})).await;
    for statement in [
        "INSERT INTO leaderboard_periods (generation_id, starts_at) SELECT max(id), 'epoch' FROM leaderboard_generations
         ON CONFLICT DO NOTHING",
        "INSERT INTO leaderboard_entries
         SELECT (SELECT max(id) FROM leaderboard_periods), 'p-' || n, n, 0, now(), gen_random_uuid(), 1, 1
           FROM generate_series(1, 60000) n",
    ] {
        sqlx::query(statement).execute(stage.pool()).await.unwrap();
    }
    analyze(&stage).await;
    let mut samples = Vec::new();
    for _ in 0..6 {
        let mut connection = stage.pool().acquire().await.unwrap();
        let sample = scoreline::store::audit::sample(&mut connection, 500).await.unwrap();
        assert!(sample.len() <= 1_500 && sample.iter().all(|(id, _, _)| *id == board.generation.id));
        let mut places: Vec<i64> = sample.iter().map(|(_, _, player)| player[2..].parse().unwrap()).collect();
        places.sort_unstable();
        samples.push(places);
    }
    let all: Vec<i64> = samples.concat();
    assert!((1_000..6_000).contains(&all.len()), "about 500 each time: {}", all.len());
    assert!(all.iter().any(|n| *n > 45_000) && all.iter().any(|n| *n < 15_000), "of all parts of the table");
    samples.sort_unstable();
    samples.dedup();
    assert!(samples.len() > 1, "each time others");
}

#[tokio::test]
async fn an_audit_looks_at_closed_periods_for_as_long_as_redis_has_them() {
    let stage = Stage::new("2026-11-20T12:00:00Z").await;
    let board = stage.live("daily", json!({"reset": "daily"})).await;
    stage.accept(&[stage.event("a", 1, "2026-11-20T01:00:00Z"), stage.event("b", 2, "2026-11-20T01:00:00Z")]).await;
    stage.accept(&[stage.event("a", 1, "2026-11-21T01:00:00Z")]).await;
    stage.fold().await;
    sqlx::query("DELETE FROM dirty_entries").execute(stage.pool()).await.unwrap();
    let (id, order) = (board.generation.id, board.generation.spec.definition.order);
    rebuild_board(stage.pool(), &stage.ranking, id, order, "cron", |_| {}).await.unwrap();
    stage.set_now("2026-11-21T12:00:00Z");
    let tenure = stage.tenure("job-close-periods").await;
    close_due(&stage.context, &tenure).await.unwrap();
    assert_eq!(stage.count("SELECT count(*) FROM period_standings").await, 2);
    let yesterday = at("2026-11-20T00:00:00Z");
    let [rank, member] = keys(&board, yesterday);
    let kept = |key: &str| -> Vec<u8> { redis::cmd("DUMP").arg(key).query(&mut stage.redis.connection()).unwrap() };
    let copies = [kept(&rank), kept(&member)];
    take_out(&stage, &board, yesterday, "b");
    let audit = audit_board(stage.pool(), &stage.ranking, &board, false, "cron", &stage.context.stop).await.unwrap();
    assert_eq!((audit.redis.compared, audit.redis.missing, audit.redis.repaired), (3, 1, true), "{audit:?}");
    assert_eq!([kept(&rank), kept(&member)], copies, "as it was");
    // Removed from Redis as its time has come, and brought back by whoever did not know.
    stage.set_now("2026-11-22T12:00:01Z");
    unpublish_closed(&stage.context, &tenure).await.unwrap();
    for (key, copy) in [&rank, &member].into_iter().zip(&copies) {
        run(&stage, redis::cmd("RESTORE").arg(key).arg(0).arg(copy.as_slice()));
    }
    let name = format!("{}..{}", yesterday.0, yesterday.plus_seconds(86_400).0);
    run(&stage, redis::cmd("SADD").arg(format!("{{sl:b3:{id}}}:periods")).arg(name));
    let hourly = stage.tenure("job-audit-boards").await;
    assert_eq!(audit_all_samples(&stage.context, &hourly).await.unwrap(), 2);
    let gone: i64 = redis::cmd("EXISTS").arg(&[&rank, &member]).query(&mut stage.redis.connection()).unwrap();
    assert_eq!((gone, audit_all_samples(&stage.context, &hourly).await.unwrap()), (0, 0));
}

#[tokio::test]
async fn what_is_not_published_yet_is_no_drift() {
    let stage = Stage::new("2026-11-21T00:00:00Z").await;
    let board = published(&stage).await;
    // Everybody scores, and the publisher is far behind.
    let events: Vec<Happening> =
        (0..1_210).map(|n| stage.event(&format!("p-{n}"), 1_000 + n, "2026-11-20T02:00:00Z")).collect();
    stage.accept(&events).await;
    stage.fold().await;
    let audit = audit_board(stage.pool(), &stage.ranking, &board, false, "cron", &stage.context.stop).await.unwrap();
    assert!(audit.is_clean() && !audit.redis.repaired, "{audit:?}");
    assert_eq!((audit.redis.compared, audit.redis.undecided), (1_210, 1_210), "{audit:?}");
    // As if it had published them, and lost one on the way.
    let (id, order) = (board.generation.id, board.generation.spec.definition.order);
    rebuild_board(stage.pool(), &stage.ranking, id, order, "cron", |_| {}).await.unwrap();
    take_out(&stage, &board, Micros::EPOCH, "p-3");
    sqlx::query("DELETE FROM dirty_entries").execute(stage.pool()).await.unwrap();
    let audit = audit_board(stage.pool(), &stage.ranking, &board, false, "cron", &stage.context.stop).await.unwrap();
    assert_eq!((audit.redis.missing, audit.redis.different, audit.redis.undecided), (1, 0, 0), "{audit:?}");
}

#[tokio::test]
async fn an_entry_of_a_later_version_than_postgres_ever_had_is_drift() {
    let stage = Stage::new("2026-11-21T00:00:00Z").await;
    let board = published(&stage).await;
    // What a lost future has left in Redis.
    let [_, member] = keys(&board, Micros::EPOCH);
    let value: String = {
        let value: Vec<u8> = redis::cmd("HGET").arg(&member).arg("p-5").query(&mut stage.redis.connection()).unwrap();
        let colon = value.iter().position(|byte| *byte == b':').unwrap();
        run(&stage, redis::cmd("HSET").arg(&member).arg("p-5").arg([b"9999999999999999", &value[colon..]].concat()));
        String::from_utf8_lossy(&value[..colon]).into_owned()
    };
    assert!(value.parse::<i64>().unwrap() < 9_999_999_999_999_999);
    let audit = audit_board(stage.pool(), &stage.ranking, &board, false, "cron", &stage.context.stop).await.unwrap();
    assert_eq!((audit.redis.different, audit.redis.repaired), (1, true), "{audit:?}");
}

#[tokio::test]
async fn an_audit_of_what_was_replaced_meanwhile_finds_nothing() {
    let stage = Stage::new("2026-11-21T00:00:00Z").await;
    let board = published(&stage).await;
    let spec = Stage::spec("b", json!({"order": "ascending"}));
    stage.apply(&spec, false).await.unwrap();
    stage.build(stage.newest("b").await.0).await;
    // Nobody makes facts for the old one any more, and its keys go.
    stage.accept(&[stage.event("late", 1, "2026-11-20T03:00:00Z")]).await;
    let stop = &stage.context.stop;
    let audit = audit_board(stage.pool(), &stage.ranking, &board, true, "cron", stop).await.unwrap();
    assert!(audit.replaced && audit.is_clean() && !audit.redis.repaired, "{audit:?}");
    assert!(audit_entries(stage.pool(), &board).await.unwrap().is_none());
    run(&stage, redis::cmd("DEL").arg(&keys(&board, Micros::EPOCH)[..]));
    let audit = audit_board(stage.pool(), &stage.ranking, &board, false, "cron", stop).await.unwrap();
    assert!(audit.replaced && audit.is_clean() && !audit.redis.repaired, "{audit:?}");
}

/// What an audit reads with each run does not grow with a board's past.
#[tokio::test]
async fn an_audit_reads_no_period_that_left_redis() {
    use scoreline::store::audit;
    let stage = Stage::new("2026-11-21T00:00:00Z").await;
    let board = stage.live("b", json!({"reset": "daily"})).await;
    for statement in [
        "INSERT INTO leaderboard_periods (generation_id, starts_at, ends_at, state, closed_at, unpublished_at)
         SELECT (SELECT max(id) FROM leaderboard_generations), at, at + interval '1 minute', 'closed', now(), now()
           FROM generate_series('2020-01-01', '2020-03-01', interval '1 minute') at",
        "INSERT INTO leaderboard_periods (generation_id, starts_at, ends_at, state, closed_at)
         SELECT max(id), '2026-11-20', '2026-11-21', 'closed', now() FROM leaderboard_generations",
        "INSERT INTO leaderboard_periods (generation_id, starts_at) SELECT max(id), now() FROM leaderboard_generations",
        "INSERT INTO leaderboard_entries (period_id, player_id, score, subscore, reached_at, event_id, plays, version)
         SELECT id, 'p-' || n, n, 0, now(), gen_random_uuid(), 1, 1
           FROM (SELECT * FROM leaderboard_periods ORDER BY id DESC LIMIT 100) AS p, generate_series(1, 10) n",
    ] {
        sqlx::query(statement).execute(stage.pool()).await.unwrap();
    }
    analyze(&stage).await;
    let ids =
        async |which: &'static str| -> Vec<i64> { sqlx::query_scalar(which).fetch_all(stage.pool()).await.unwrap() };
    let in_redis = ids("SELECT id FROM leaderboard_periods WHERE unpublished_at IS NULL ORDER BY starts_at").await;
    let open = ids("SELECT id FROM leaderboard_periods WHERE state = 'open'").await;
    assert_eq!((in_redis.len(), open.len()), (2, 1));
    let mut transaction = stage.pool().begin().await.unwrap();
    // Not from zero: what this connection did within the last second is still among them.
    let mut before = rows_read(&mut transaction).await;
    for question in ["published", "open", "sample"] {
        match question {
            "published" => {
                let found = audit::published_periods(&mut transaction, board.generation.id).await.unwrap();
                assert_eq!(found.iter().map(|period| period.id).collect::<Vec<_>>(), in_redis);
            }
            "open" => {
                let found = audit::open_periods(&mut transaction, board.generation.id).await.unwrap();
                assert_eq!(found.iter().map(|period| period.id).collect::<Vec<_>>(), open);
            }
            _ => {
                // More than there are: all of them.
                let found = audit::sample(&mut transaction, 2_000).await.unwrap();
                assert_eq!(found.len(), 20);
                assert!(found.iter().all(|(_, period, _)| in_redis.contains(&period.id)));
            }
        }
        let read = rows_read(&mut transaction).await;
        let (walked, fetched) = (read.0 - before.0, read.1 - before.1);
        assert!(walked == 0 && fetched < 100, "{question}: {walked} and {fetched}");
        before = read;
    }
}

/// Rows of the table of periods that this connection has read: in walks, and by an index.
async fn rows_read(connection: &mut sqlx::PgConnection) -> (i64, i64) {
    sqlx::query_as(
        "SELECT coalesce(max(seq_tup_read), 0), coalesce(max(idx_tup_fetch), 0)
           FROM pg_stat_xact_user_tables WHERE relname = 'leaderboard_periods'",
    )
    .fetch_one(connection)
    .await
    .unwrap()
}
