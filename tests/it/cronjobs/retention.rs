//! What is dropped has been counted (docs/rules.md#counted-before-it-is-dropped).

use std::sync::atomic::Ordering;
use std::time::Duration;

use scoreline::aggregator::baseline::{Step, fold_chunk};
use scoreline::aggregator::recompute::{Outcome, build};
use scoreline::aggregator::retention::{clean_up, drop_old_months};
use scoreline::aggregator::schedule::Context;
use scoreline::directory::{Directory, KeyKind};
use scoreline::domain::ids::GameId;
use scoreline::domain::month::Month;
use scoreline::services::audit::entries::audit_entries;
use scoreline::store::audit_log::Actor;
use scoreline::store::event_scan::Pace;
use scoreline::store::leaderboards::{self, Applied, ApplyError};
use scoreline::store::{keys, partitions, recompute};
use secrecy::ExposeSecret as _;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::stage::{Stage, at};
use crate::support::eventually;

const SOON: Duration = Duration::from_secs(60);

/// Three boards that never reset or reset monthly, scores in January and in November.
pub async fn with_history(stage: &Stage) -> Vec<scoreline::domain::board::CompiledBoard> {
    partitions::ensure(stage.pool(), at("2026-01-01T00:00:00Z"), at("2026-03-01T00:00:00Z")).await.unwrap();
    let boards = vec![
        stage.live("best", json!({"metadata": "/level"})).await,
        stage.live("sum", json!({"operator": "incr"})).await,
        stage.live("latest", json!({"operator": "set", "order": "ascending"})).await,
    ];
    let mut events = Vec::new();
    for n in 0..60 {
        let (player, day) = (format!("p-{}", n % 7), 1 + n % 28);
        events.push(stage.event(&player, 1_000 - n * 7 % 90, &format!("2026-01-{day:02}T10:00:00Z")));
        events.push(stage.event(&player, 900 + n % 50, &format!("2026-11-{:02}T10:00:00Z", 1 + n % 20)));
    }
    stage.accept(&events).await;
    stage.fold().await;
    boards
}

#[tokio::test]
async fn a_month_is_in_the_baseline_before_it_is_dropped() {
    let stage = Stage::new("2026-11-21T00:00:00Z").await;
    let boards = with_history(&stage).await;
    let tenure = stage.tenure("job-drop-old-months").await;
    let dropped = drop_old_months(&stage.context, &tenure).await.unwrap();
    assert_eq!(dropped, 3, "January to March");
    assert_eq!(stage.count("SELECT count(*) FROM events").await, 60);
    assert_eq!(stage.count("SELECT count(*) FROM pg_class WHERE relname = 'events_2026_01'").await, 0);
    assert_eq!(stage.count("SELECT count(*) FROM entry_baseline").await, 3 * 7);
    for board in &boards {
        let audit = audit_entries(stage.pool(), board).await.unwrap().unwrap();
        assert_eq!((audit.computed, audit.differing), (7, 0), "{audit:?}");
    }
    // Again: nothing to do, nothing changes.
    assert_eq!(drop_old_months(&stage.context, &tenure).await.unwrap(), 0);
    assert_eq!(audit_entries(stage.pool(), &boards[1]).await.unwrap().unwrap().differing, 0);
}

#[tokio::test]
async fn standings_hold_while_a_month_is_half_in_the_baseline() {
    let stage = Stage::new("2026-11-21T00:00:00Z").await;
    let boards = with_history(&stage).await;
    let january = Month::of(at("2026-01-15T00:00:00Z"));
    let tenure = stage.tenure("job-drop-old-months").await;
    assert_eq!(fold_chunk(&stage.context, &tenure, january, &mut Pace::new(5_000)).await.unwrap(), Step::More);
    // The process dies here: events are in the baseline, and still stored. They count once.
    for board in &boards {
        assert_eq!(audit_entries(stage.pool(), board).await.unwrap().unwrap().differing, 0);
        let before = stage.entries(board.generation.id).await;
        let mut transaction = stage.pool().begin().await.unwrap();
        let again = recompute::begin(&mut transaction, board.generation.leaderboard_id).await.unwrap();
        transaction.commit().await.unwrap();
        stage.build(again.id).await;
        assert_eq!(stage.entries(again.id).await, before);
    }
    drop_old_months(&stage.context, &tenure).await.unwrap();
    for board in stage.rules.live() {
        assert_eq!(audit_entries(stage.pool(), &board).await.unwrap().unwrap().differing, 0);
    }
}

#[tokio::test]
async fn a_recompute_of_an_unchanged_definition_starts_from_the_baseline() {
    let stage = Stage::new("2026-11-21T00:00:00Z").await;
    let boards = with_history(&stage).await;
    let tenure = stage.tenure("job-drop-old-months").await;
    drop_old_months(&stage.context, &tenure).await.unwrap();
    for board in boards {
        let before = stage.entries(board.generation.id).await;
        assert_eq!(before.len(), 7);
        let mut transaction = stage.pool().begin().await.unwrap();
        let again = recompute::begin(&mut transaction, board.generation.leaderboard_id).await.unwrap();
        transaction.commit().await.unwrap();
        stage.build(again.id).await;
        assert_eq!(stage.entries(again.id).await, before);
    }
}

#[tokio::test]
async fn an_edit_that_needs_dropped_events_is_refused_unless_accepted() {
    let stage = Stage::new("2026-11-21T00:00:00Z").await;
    with_history(&stage).await;
    let other = Stage::spec("sum", json!({"operator": "best"}));
    let edit = async |spec: &_, accept| {
        let mut transaction = stage.pool().begin().await.unwrap();
        let edited = leaderboards::apply(&mut transaction, stage.game, spec, accept, Actor::CommandLine).await;
        transaction.rollback().await.unwrap();
        edited
    };
    // Nothing was dropped yet.
    assert!(matches!(edit(&other, false).await, Ok(Applied::Recomputing)));
    let tenure = stage.tenure("job-drop-old-months").await;
    drop_old_months(&stage.context, &tenure).await.unwrap();
    let refused = edit(&other, false).await;
    assert!(matches!(refused, Err(ApplyError::HistoryIncomplete)), "{refused:?}");
    assert!(matches!(edit(&other, true).await, Ok(Applied::Recomputing)));
    // What is only shown needs no history; nor does an order that sums do not depend on.
    let shown = Stage::spec("best", json!({"metadata": "/level", "public": true, "tie_policy": "competition"}));
    assert!(matches!(edit(&shown, false).await, Ok(Applied::Shown)));
    let turned = Stage::spec("sum", json!({"operator": "incr", "order": "ascending"}));
    assert!(matches!(edit(&turned, false).await, Ok(Applied::Recomputing)));
}

#[tokio::test]
async fn nothing_is_dropped_while_an_event_may_still_arrive() {
    let stage = Stage::new("2026-11-21T00:00:00Z").await;
    with_history(&stage).await;
    let tenure = stage.tenure("job-drop-old-months").await;
    // A job from early April may hold events of March, and not of February. A recompute must find January as it is.
    stage.set_oldest_job(Some("2026-04-03T00:00:00Z"));
    stage.create("new", json!({})).await;
    assert_eq!(drop_old_months(&stage.context, &tenure).await.unwrap(), 1, "February, of which there is nothing");
    sqlx::query("UPDATE leaderboard_generations SET state = 'retired' WHERE state = 'building'")
        .execute(stage.pool())
        .await
        .unwrap();
    assert_eq!(drop_old_months(&stage.context, &tenure).await.unwrap(), 1);
    stage.set_oldest_job(None);
    assert_eq!(drop_old_months(&stage.context, &tenure).await.unwrap(), 1);
}

#[tokio::test]
async fn a_recompute_holds_a_month_until_it_has_read_it_and_then_has_it_in_its_baseline() {
    let stage = Stage::new("2026-11-21T00:00:00Z").await;
    let boards = with_history(&stage).await;
    let mut begun = Vec::new();
    for board in &boards {
        let mut transaction = stage.pool().begin().await.unwrap();
        begun.push(recompute::begin(&mut transaction, board.generation.leaderboard_id).await.unwrap().id);
        transaction.commit().await.unwrap();
    }
    stage.rules.reload().await.unwrap();
    let tenure = stage.tenure("job-drop-old-months").await;
    assert_eq!(drop_old_months(&stage.context, &tenure).await.unwrap(), 2, "not January");
    // They read all there is, and wait for facts that nobody folds.
    let finished = async || {
        let count =
            "SELECT count(*) FROM leaderboard_generations WHERE state = 'building' AND scan_finished_at IS NOT NULL";
        stage.count(count).await == 3
    };
    for id in &begun {
        let context = Context { stop: CancellationToken::new(), ..(*stage.context).clone() };
        let (stop, id) = (context.stop.clone(), *id);
        let building = tokio::spawn(async move { build(&context, id).await });
        eventually("it has read the events", SOON, async || {
            let done = sqlx::query_scalar::<_, bool>(
                "SELECT scan_finished_at IS NOT NULL FROM leaderboard_generations WHERE id = $1",
            );
            done.bind(id.0).fetch_one(stage.pool()).await.unwrap()
        })
        .await;
        stop.cancel();
        assert_eq!(building.await.unwrap().unwrap(), Outcome::Stopped);
    }
    assert!(finished().await, "none of them is live");
    assert_eq!(drop_old_months(&stage.context, &tenure).await.unwrap(), 1, "January");
    assert_eq!(stage.count("SELECT count(*) FROM events").await, 60);
    for (board, id) in boards.iter().zip(begun) {
        let before = stage.entries(board.generation.id).await;
        stage.build(id).await;
        assert_eq!(stage.entries(id).await, before);
        let audit = audit_entries(stage.pool(), &stage.rules.board(id).unwrap()).await.unwrap().unwrap();
        assert_eq!((audit.computed, audit.differing), (7, 0), "{audit:?}");
        // The next one starts from the baseline of this.
        let mut transaction = stage.pool().begin().await.unwrap();
        let again = recompute::begin(&mut transaction, board.generation.leaderboard_id).await.unwrap();
        transaction.commit().await.unwrap();
        stage.build(again.id).await;
        assert_eq!(stage.entries(again.id).await, before);
    }
}

#[tokio::test]
async fn a_half_done_detach_is_finished_at_the_next_start() {
    let stage = Stage::new("2026-11-21T00:00:00Z").await;
    let boards = with_history(&stage).await;
    let january = Month::of(at("2026-01-15T00:00:00Z"));
    let tenure = stage.tenure("job-drop-old-months").await;
    while fold_chunk(&stage.context, &tenure, january, &mut Pace::new(5_000)).await.unwrap() == Step::More {}
    // An open transaction holds the detach up until its patience ends: half done.
    let mut open = stage.pool().begin().await.unwrap();
    sqlx::query("SELECT count(*) FROM events").execute(&mut *open).await.unwrap();
    let mut impatient = stage.pool().acquire().await.unwrap();
    sqlx::query("SET lock_timeout = '200ms'").execute(&mut *impatient).await.unwrap();
    let detached =
        sqlx::query("ALTER TABLE events DETACH PARTITION events_2026_01 CONCURRENTLY").execute(&mut *impatient).await;
    assert!(detached.is_err());
    impatient.close().await.unwrap();
    open.rollback().await.unwrap();
    assert_eq!(stage.count("SELECT count(*) FROM pg_inherits WHERE inhdetachpending").await, 1);
    let dropped = drop_old_months(&stage.context, &tenure).await.unwrap();
    assert_eq!(dropped, 3);
    assert_eq!(stage.count("SELECT count(*) FROM pg_class WHERE relname = 'events_2026_01'").await, 0);
    for board in &boards {
        assert_eq!(audit_entries(stage.pool(), board).await.unwrap().unwrap().differing, 0);
    }
}

#[tokio::test]
async fn a_detached_month_is_counted_before_it_is_dropped() {
    let stage = Stage::new("2026-11-21T00:00:00Z").await;
    with_history(&stage).await;
    sqlx::query("ALTER TABLE events DETACH PARTITION events_2026_01").execute(stage.pool()).await.unwrap();
    let tenure = stage.tenure("job-drop-old-months").await;
    assert_eq!(drop_old_months(&stage.context, &tenure).await.unwrap(), 2, "February and March");
    assert_eq!(stage.count("SELECT count(*) FROM events_2026_01").await, 60);
}

#[tokio::test]
async fn what_nobody_needs_is_removed_in_chunks_and_nothing_else() {
    let stage = Stage::new("2026-11-21T00:00:00Z").await;
    let boards = with_history(&stage).await;
    let board = &boards[0].generation;
    let mut transaction = stage.pool().begin().await.unwrap();
    let again = recompute::begin(&mut transaction, board.leaderboard_id).await.unwrap();
    transaction.commit().await.unwrap();
    stage.build(again.id).await;
    for statement in [
        "INSERT INTO audit_log (at, actor, action, subject)
         VALUES (now() - interval '1 year', 'a', 'b', 'c'), (now() - interval '20 days', 'a', 'b', 'd')",
        "INSERT INTO processes (id, role, pool_max, seen_at)
         VALUES ('old', 'api', 1, now() - interval '2 hours'), ('new', 'api', 1, now() - interval '50 minutes')",
        "INSERT INTO leases (name, holder, token, expires_at)
         VALUES ('recompute-old', 'h', 7, now() - interval '2 hours'), ('recompute-new', 'h', 8, now() - interval '50 minutes')",
        "INSERT INTO dead_letters (id, job_id, queue, lane, kind, reason, error, attempts, crashes, payload, received_at,
             state, decided_at)
         SELECT gen_random_uuid(), n::text, 'q0', 'high', 'k', 'r', 'e', 1, 0, '', '2025-01-01',
                CASE n WHEN 1 THEN 'waiting' ELSE 'discarded' END, CASE n WHEN 1 THEN NULL ELSE now() - interval '1 year' END
           FROM generate_series(1, 3) n",
    ] {
        sqlx::query(statement).execute(stage.pool()).await.unwrap();
    }
    // These are Postgres's times: a cron that is years ahead finds none of it any older.
    stage.set_now("2031-01-01T00:00:00Z");
    let tenure = stage.tenure("job-clean-up").await;
    let retired = "SELECT count(*) FROM leaderboard_generations WHERE state = 'retired'";
    let before = stage.count(retired).await;
    clean_up(&stage.context, &tenure).await.unwrap();
    assert!(before > 0 && stage.count(retired).await == before, "left alone for a minute");
    sqlx::query("UPDATE leaderboard_generations SET retired_at = retired_at - interval '2 minutes'")
        .execute(stage.pool())
        .await
        .unwrap();
    clean_up(&stage.context, &tenure).await.unwrap();
    assert_eq!(stage.count("SELECT count(*) FROM audit_log WHERE action = 'b'").await, 1);
    assert_eq!(stage.count("SELECT count(*) FROM processes").await, 1);
    assert_eq!(stage.count("SELECT count(*) FROM leases WHERE name IN ('recompute-old', 'recompute-new')").await, 1);
    assert_eq!(stage.count("SELECT count(*) FROM dead_letters").await, 1, "the undecided one");
    assert_eq!(stage.count(retired).await, 0);
    assert_eq!(stage.entries(board.id).await, []);
    assert_eq!(stage.entries(again.id).await.len(), 7);
    let keys: Vec<String> =
        redis::cmd("KEYS").arg(format!("{{sl:b3:{}}}*", board.id)).query(&mut stage.redis.connection()).unwrap();
    assert_eq!(keys, Vec::<String>::new());
}

/// A studio may make and revoke keys for ever: what is kept of them is bounded, and none of them works again.
#[tokio::test]
async fn revoked_keys_do_not_pile_up_and_stay_refused() {
    let stage = Stage::new("2026-11-21T00:00:00Z").await;
    let make = async || {
        let mut transaction = stage.pool().begin().await.unwrap();
        let made =
            keys::create(&mut transaction, stage.game, KeyKind::Client, None, Actor::CommandLine, rand::random()).await;
        let (key, secret) = made.unwrap();
        transaction.commit().await.unwrap();
        (key.id, secret.expose_secret().to_owned())
    };
    let revoke = async |id: i32| {
        let mut transaction = stage.pool().begin().await.unwrap();
        assert!(
            keys::revoke(&mut transaction, None, id, Actor::CommandLine).await.unwrap().unwrap().revoked_at.is_some()
        );
        transaction.commit().await.unwrap();
    };
    let ((old, old_secret), (_, live_secret)) = (make().await, make().await);
    revoke(old).await;
    // Twice is once: whoever repeats it fills no log.
    revoke(old).await;
    let last_year = "UPDATE api_keys SET revoked_at = now() - interval '1 year' WHERE revoked_at IS NOT NULL";
    sqlx::query(last_year).execute(stage.pool()).await.unwrap();
    let other: i32 = sqlx::query_scalar("INSERT INTO games (slug, name) VALUES ('other', 'O') RETURNING id")
        .fetch_one(stage.pool())
        .await
        .unwrap();
    let many = "INSERT INTO api_keys (game_id, kind, key_sha256, hint, revoked_at)
                SELECT game, 'client', sha256((game || '-' || n)::bytea), 'h' || n,
                       now() - make_interval(secs => 1000 - n)
                  FROM unnest(ARRAY[$1, $2]::int[]) AS game, generate_series(1, 203) AS n";
    sqlx::query(many).bind(stage.game.0).bind(other).execute(stage.pool()).await.unwrap();
    let tenure = stage.tenure("job-clean-up").await;
    clean_up(&stage.context, &tenure).await.unwrap();
    let kept = keys::list(stage.pool(), stage.game).await.unwrap();
    assert_eq!(kept.iter().filter(|key| key.revoked_at.is_none()).count(), 1);
    let mut revoked: Vec<&str> =
        kept.iter().filter(|key| key.revoked_at.is_some()).map(|key| key.hint.as_str()).collect();
    revoked.sort_unstable();
    assert!(revoked.len() == 200 && ["h1", "h2", "h3"].iter().all(|gone| !revoked.contains(gone)), "{revoked:?}");
    assert_eq!(keys::list(stage.pool(), GameId(other)).await.unwrap().len(), 200, "each game has its own");
    assert_eq!(stage.count("SELECT count(*) FROM audit_log WHERE action = 'key.revoke'").await, 1);
    let directory = Directory::from_snapshot(scoreline::store::directory::snapshot(stage.pool()).await.unwrap());
    assert!(directory.authenticate(&old_secret).is_none() && directory.authenticate(&live_secret).is_some());
    let mut transaction = stage.pool().begin().await.unwrap();
    assert_eq!(
        keys::revoke(&mut transaction, None, old, Actor::CommandLine).await.unwrap(),
        None,
        "there is no such key"
    );
}

#[tokio::test]
async fn a_table_that_an_operator_restored_is_never_dropped() {
    let stage = Stage::new("2026-11-21T00:00:00Z").await;
    with_history(&stage).await;
    let tenure = stage.tenure("job-drop-old-months").await;
    assert_eq!(drop_old_months(&stage.context, &tenure).await.unwrap(), 3);
    sqlx::query("CREATE TABLE events_2026_01 (LIKE events)").execute(stage.pool()).await.unwrap();
    assert_eq!(drop_old_months(&stage.context, &tenure).await.unwrap(), 0);
    assert_eq!(stage.count("SELECT count(*) FROM pg_class WHERE relname = 'events_2026_01'").await, 1);
    // A month that is needed again is a month as every other.
    sqlx::query("DROP TABLE events_2026_01").execute(stage.pool()).await.unwrap();
    partitions::ensure_for(stage.pool(), at("2026-01-05T00:00:00Z")).await.unwrap();
    assert_eq!(drop_old_months(&stage.context, &tenure).await.unwrap(), 1);
}

#[tokio::test]
async fn no_clock_alone_drops_a_month() {
    let stage = Stage::new("2026-11-21T00:00:00Z").await;
    with_history(&stage).await;
    let tenure = stage.tenure("job-drop-old-months").await;
    let months = "SELECT count(*) FROM pg_inherits WHERE inhparent = 'events'::regclass";
    let before = stage.count(months).await;
    // So late that nothing which is on its way may belong to these months, and none of them is old.
    let truth = at("2026-04-15T00:00:00Z").0;
    // Two of three are months ahead: the third keeps what it thinks young.
    for clock in [&stage.queue_clock, &stage.database_clock] {
        clock.store(truth, Ordering::SeqCst);
        assert_eq!(drop_old_months(&stage.context, &tenure).await.unwrap(), 0);
        assert_eq!(stage.count(months).await, before);
        clock.store(0, Ordering::SeqCst);
    }
    assert_eq!(drop_old_months(&stage.context, &tenure).await.unwrap(), 3);
}

/// A newer program defined it: what its events mean to it only that one knows, and the baseline is all that
/// would be left.
#[tokio::test]
async fn a_month_stays_while_a_leaderboard_that_it_may_count_for_cannot_be_read() {
    let stage = Stage::new("2026-11-21T00:00:00Z").await;
    with_history(&stage).await;
    let tenure = stage.tenure("job-drop-old-months").await;
    let change = async |statement: &'static str| {
        sqlx::query(statement).execute(stage.pool()).await.unwrap();
    };
    for unreadable in [
        r#"UPDATE leaderboard_generations SET spec = spec || '{"reset": "lunar"}'"#,
        // Then any event may feed it.
        r#"UPDATE leaderboard_generations SET spec = spec || '{"event_type": {"any": []}}'"#,
    ] {
        change(unreadable).await;
        // Months without events go.
        drop_old_months(&stage.context, &tenure).await.unwrap();
        assert_eq!(stage.count("SELECT count(*) FROM events").await, 120, "{unreadable}");
        change(r#"UPDATE leaderboard_generations SET spec = spec || '{"reset": "never", "event_type": "game_ended"}'"#)
            .await;
    }
    assert_eq!(drop_old_months(&stage.context, &tenure).await.unwrap(), 1, "it can be read again");
    assert_eq!(stage.count("SELECT count(*) FROM events").await, 60);
}
