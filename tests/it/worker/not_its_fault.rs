//! Whose fault it is where it does not look so: the server's, or another transaction's, and not the event's.

use std::sync::Mutex;
use std::time::Duration;

use scoreline::domain::clock::Micros;
use scoreline::domain::event::Event;
use scoreline::domain::month::Month;
use scoreline::process::readiness::Readiness;
use scoreline::process::watch::check_postgres;
use scoreline::store::pool::Pool;
use scoreline::store::write_probe::write_and_undo;
use scoreline::store::{migrations, partitions};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::blame::Settings;
use super::{Bench, SOON, event, job};
use crate::support::eventually;
use crate::support::postgres_server::PostgresServer;

/// Its code means data, and it refuses everybody's.
#[tokio::test]
async fn a_trigger_that_fails_for_every_event_makes_no_dead_letter() {
    let bench = Bench::new().await;
    bench
        .run(
            "CREATE FUNCTION divide() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                 PERFORM 1 / (length(NEW.type) - length(NEW.type)); RETURN NEW;
             END $$;
             CREATE TRIGGER divide BEFORE INSERT ON events FOR EACH ROW EXECUTE FUNCTION divide();",
        )
        .await;
    bench.push_some(1, 0..15).await;
    bench.start_worker().await;
    bench.waits_for_postgres("division by zero").await;
    assert_eq!(bench.count("SELECT count(*) FROM dead_letters").await, 0);
    bench.run("DROP TRIGGER divide ON events").await;
    bench.all_is_stored(15).await;
}

#[tokio::test]
async fn an_event_that_only_copy_refuses_is_stored() {
    let bench = Bench::new().await;
    // COPY's binary format has another width for it; a value is taken.
    bench.run("ALTER TABLE events ALTER schema_version TYPE smallint").await;
    bench.start_worker().await;
    bench.push("one", &job(1, &[Event { schema_version: Some(1), ..event(1, "p-1", r#"{"score":1}"#) }])).await;
    bench.all_is_stored(1).await;
}

/// A psql session that was left open after a SELECT FOR UPDATE, or an edit that does not end.
#[tokio::test]
async fn a_lock_on_one_games_row_stops_no_other_game() {
    let bench = Bench::new().await;
    bench.with_another_game().await;
    let mut held = bench.pool().begin().await.unwrap();
    sqlx::query("SELECT 1 FROM games WHERE id = 2 FOR UPDATE").execute(&mut *held).await.unwrap();
    bench.push_some(1, 0..20).await;
    bench.push_some(2, 20..40).await;
    bench.push("stranger", &job(99, &[event(900, "p-1", "{}")])).await;
    bench.start_worker().await;
    eventually("the other game is stored", SOON, || async { bench.events().await == 20 }).await;
    eventually("the game is set aside", SOON, || async {
        bench.blocked().await.iter().any(|(game, error)| *game == 2 && error.contains("locks its game"))
    })
    .await;
    bench.push_some(2, 40..50).await;
    bench.push_some(1, 50..60).await;
    eventually("and later events are stored", SOON, || async { bench.events().await == 30 }).await;
    assert_eq!(bench.health.trouble(Instant::now()), None, "nobody else waits");
    eventually("a game that does not exist is told from it", SOON, || async {
        bench.count("SELECT count(*) FROM dead_letters WHERE reason = 'unknown_game'").await == 1
    })
    .await;
    held.rollback().await.unwrap();
    bench.drained().await;
    assert_eq!(bench.events().await, 60);
    assert_eq!(bench.count("SELECT count(*) FROM dead_letters").await, 1);
    let totals = bench.queue.status().await.unwrap().totals;
    assert_eq!(totals.get("retried").copied().unwrap_or_default(), 0, "it cost no attempt");
}

/// Each wait takes two seconds, in which its writer does nothing else.
#[tokio::test]
async fn a_lock_that_lasts_is_waited_for_once() {
    let bench = Bench::new().await;
    let mut held = bench.pool().begin().await.unwrap();
    sqlx::query("SELECT 1 FROM games WHERE id = 1 FOR UPDATE").execute(&mut *held).await.unwrap();
    bench.start_worker_with(&["--worker-writers", "1"], bench.pool().clone()).await;
    let set_aside = async |job: u64| {
        bench.push_some(1, u128::from(job)..u128::from(job) + 1).await;
        eventually("it is set aside", SOON, || async { bench.queue.status().await.unwrap().delayed == job }).await;
    };
    set_aside(1).await;
    let began = Instant::now();
    for job in 2..=6 {
        set_aside(job).await;
    }
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    held.rollback().await.unwrap();
    bench.all_is_stored(6).await;
}

/// What waited may be set aside in the end, and nothing else may come.
#[tokio::test]
async fn a_fault_of_the_server_that_is_over_is_not_told_for_ever() {
    let bench = Bench::new().await;
    let moment = Micros::from_seconds(1_000_000_000);
    partitions::create(bench.pool(), Month::of(moment)).await.unwrap();
    bench.run("ALTER TABLE events DETACH PARTITION events_2001_09").await;
    let earlier = Instant::now() - Duration::from_secs(5);
    bench.health.failing("the server was away", earlier);
    assert!(bench.health.trouble(Instant::now()).is_some());
    let old = Event { occurred_at: moment, ..event(1, "p-1", r#"{"score":1}"#) };
    bench.push("old", &job(1, &[old])).await;
    bench.start_worker().await;
    eventually("it is set aside", SOON, || async { !bench.blocked().await.is_empty() }).await;
    eventually("the server is well", SOON, || async { bench.health.trouble(Instant::now()).is_none() }).await;
}

/// A stand-by that commits wait for is away: our own write waits with all others, and no connection is replaced for it.
#[tokio::test]
async fn commits_that_wait_for_a_standby_are_told_and_keep_their_connections() {
    let server = PostgresServer::start().await;
    migrations::update(&server.owner_url, &server.url).await.unwrap();
    let arguments = ["test", "--database-url", &server.url, "--db-statement-seconds", "1"];
    let config = <Settings as clap::Parser>::parse_from(arguments).postgres;
    let pool = Pool::lazy(&config, "worker").unwrap();
    write_and_undo(&pool).await.unwrap();
    server.ask_for_standby(true);
    let waiting = Mutex::new(None);
    eventually("our own write waits", SOON, || async {
        let pool = pool.clone();
        let mut write = tokio::spawn(async move { write_and_undo(&pool).await });
        let waits = tokio::time::timeout(Duration::from_secs(1), &mut write).await.is_err();
        *waiting.lock().unwrap() = Some(write);
        waits
    })
    .await;
    let readiness = Readiness::starting("worker", CancellationToken::new());
    eventually("it is told", SOON, || async {
        let there = check_postgres(&pool, &readiness).await.unwrap();
        !there && readiness.report().reasons.iter().any(|reason| reason.contains("synchronous stand-by"))
    })
    .await;
    // A statement without an answer loses its connection after six seconds.
    let long = Duration::from_secs(8);
    eventually("it waits for long", SOON, || async { pool.commits_wait().is_some_and(|lasts| lasts > long) }).await;
    let write = waiting.into_inner().unwrap().unwrap();
    assert!(!write.is_finished(), "its connection is not given up");
    server.ask_for_standby(false);
    write.await.unwrap().unwrap();
    eventually("it is over", SOON, || async { pool.commits_wait().is_none() }).await;
    assert!(check_postgres(&pool, &readiness).await.unwrap());
}

/// A disk that is full refuses the missing month and everything else: what needs the month waits like all others.
#[tokio::test]
async fn a_server_that_can_make_no_month_makes_its_events_wait() {
    let bench = Bench::new().await;
    let full = "RAISE EXCEPTION 'the disk is full' USING ERRCODE = 'disk_full'";
    bench
        .run(&format!(
            "CREATE SEQUENCE tried; GRANT SELECT ON tried TO PUBLIC;
             CREATE FUNCTION full_for_tables() RETURNS event_trigger LANGUAGE plpgsql SECURITY DEFINER AS $$ BEGIN
                 PERFORM nextval('tried'); {full};
             END $$;
             CREATE FUNCTION full_for_rows() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {full}; END $$;
             CREATE TRIGGER full_for_rows BEFORE INSERT ON events FOR EACH ROW EXECUTE FUNCTION full_for_rows();
             CREATE TRIGGER full_for_rows BEFORE INSERT ON score_facts FOR EACH ROW EXECUTE FUNCTION full_for_rows();
             CREATE EVENT TRIGGER full_for_tables ON ddl_command_start WHEN TAG IN ('CREATE TABLE')
                 EXECUTE FUNCTION full_for_tables();"
        ))
        .await;
    let old = Event { occurred_at: Micros::from_seconds(1_000_000_000), ..event(1, "p-1", r#"{"score":1}"#) };
    bench.push("old", &job(1, &[old])).await;
    bench.start_worker().await;
    eventually("it was tried often", SOON, || async {
        bench.count("SELECT last_value FROM tried").await >= 6 || !bench.blocked().await.is_empty()
    })
    .await;
    assert_eq!(bench.blocked().await, [], "nothing is set aside");
    bench.waits_for_postgres("disk is full").await;
    let rows = "DROP TRIGGER full_for_rows ON events; DROP TRIGGER full_for_rows ON score_facts";
    bench.run(&format!("DROP EVENT TRIGGER full_for_tables; {rows}")).await;
    bench.all_is_stored(1).await;
}
