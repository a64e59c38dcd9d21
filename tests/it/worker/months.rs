//! A month whose table takes no rows holds up its own events, and no others.

use std::time::Duration;

use scoreline::domain::clock::Micros;
use scoreline::domain::event::Event;
use scoreline::domain::month::Month;
use scoreline::queue::Lane;
use scoreline::store::partitions;
use scoreline::store::pool::Pool;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{Executor, PgConnection};
use tokio::time::Instant;

use super::{Bench, SOON, event, job};
use crate::support::eventually;

/// In `events_2001_09`.
const OLD: Micros = Micros::from_seconds(1_000_000_000);

fn old(id: u128) -> Event<'static> {
    Event { occurred_at: OLD, ..event(id, "p-1", r#"{"score":1}"#) }
}

impl Bench {
    async fn with_an_old_month(&self) {
        partitions::create(self.pool(), Month::of(OLD)).await.unwrap();
    }

    /// As `REINDEX`, `VACUUM FULL` or a change of its tablespace does.
    async fn lock_the_old_month(&self) -> PgConnection {
        let mut session = self.database.superuser().await;
        session.execute("BEGIN; LOCK TABLE events_2001_09 IN ACCESS EXCLUSIVE MODE").await.unwrap();
        session
    }

    fn pool_with(&self, setting: &str, value: &str) -> Pool {
        let options: PgConnectOptions = self.database.url.parse().unwrap();
        PgPoolOptions::new().connect_lazy_with(options.options([(setting, value)])).into()
    }

    /// As processes have it. Theirs would close the connection that locks: it says nothing for long.
    fn pool_of_a_process(&self) -> Pool {
        self.pool_with("lock_timeout", "3s")
    }

    /// One writer, which all wait for.
    async fn start_one_writer(&self) {
        self.start_worker_with(&["--worker-writers", "1"], self.pool_of_a_process()).await;
    }

    /// Events of other months: who counts those of the old one waits for the lock.
    async fn newer_events(&self) -> i64 {
        self.count("SELECT count(*) FROM events WHERE occurred_at > '2002-01-01'").await
    }

    async fn names_the_old_month(&self) -> bool {
        self.blocked().await.iter().any(|(game, error)| *game == 1 && error.contains("events_2001_09"))
    }
}

#[tokio::test]
async fn a_lock_on_one_months_table_stops_no_other_month() {
    let bench = Bench::new().await;
    bench.with_an_old_month().await;
    let mut lock = bench.lock_the_old_month().await;
    for id in 900..910 {
        bench.push(&format!("old-{id}"), &job(1, &[old(id)])).await;
    }
    bench.push("mixed", &job(1, &[old(910), event(911, "p-1", r#"{"score":1}"#)])).await;
    bench.start_one_writer().await;
    bench.waits_for_a_lock().await;
    bench.push_some(1, 0..59).await;
    eventually("the others are stored", SOON, || async { bench.newer_events().await == 60 }).await;
    eventually("its month is named", SOON, || bench.names_the_old_month()).await;
    assert_eq!(bench.health.trouble(Instant::now()), None, "nobody else waits");
    lock.execute("ROLLBACK").await.unwrap();
    bench.all_is_stored(71).await;
}

/// Its time of receipt is in that month, too: it was replayed, or waited over the month's end.
#[tokio::test]
async fn a_job_that_was_received_in_a_month_that_is_locked_stops_no_other() {
    let bench = Bench::new().await;
    bench.with_an_old_month().await;
    let mut lock = bench.lock_the_old_month().await;
    let id = format!("{}-n:old-h", OLD.0);
    assert!(bench.queue.replay(&id, Lane::High, &job(1, &[old(900)]), OLD).await.unwrap());
    bench.start_one_writer().await;
    bench.waits_for_a_lock().await;
    bench.push_some(1, 0..20).await;
    eventually("the others are stored", SOON, || async { bench.newer_events().await == 20 }).await;
    eventually("its month is named", SOON, || bench.names_the_old_month()).await;
    lock.execute("ROLLBACK").await.unwrap();
    bench.all_is_stored(21).await;
}

/// Each wait takes three seconds, in which its writer does nothing else.
#[tokio::test]
async fn a_lock_on_a_months_table_is_waited_for_once() {
    let bench = Bench::new().await;
    bench.with_an_old_month().await;
    let mut lock = bench.lock_the_old_month().await;
    bench.start_one_writer().await;
    let set_aside = async |id: u64| {
        bench.push(&format!("old-{id}"), &job(1, &[old(id.into())])).await;
        eventually("it is set aside", SOON, || async { bench.queue.status().await.unwrap().delayed == id }).await;
    };
    set_aside(1).await;
    let began = Instant::now();
    for id in 2..=6 {
        set_aside(id).await;
    }
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    lock.execute("ROLLBACK").await.unwrap();
    bench.all_is_stored(6).await;
}

/// An index that is broken, a disk that is gone, a trigger: whatever the code, or no answer in time.
#[tokio::test]
async fn what_one_months_table_refuses_is_set_aside_together() {
    for refusal in ["RAISE EXCEPTION 'no' USING ERRCODE = 'XX001'", "PERFORM 1 / 0", "PERFORM pg_sleep (5)"] {
        let bench = Bench::new().await;
        bench.with_another_game().await;
        bench.with_an_old_month().await;
        bench
            .run(&format!(
                "CREATE SEQUENCE tries;
                 GRANT USAGE ON SEQUENCE tries TO PUBLIC;
                 CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                     PERFORM nextval('tries'); {refusal}; RETURN NEW;
                 END $$;
                 CREATE TRIGGER refuse BEFORE INSERT ON events_2001_09 FOR EACH ROW EXECUTE FUNCTION refuse();"
            ))
            .await;
        for id in 900..1_000 {
            bench.push(&format!("old-{id}"), &job(1 + (id % 2) as i32, &[old(id)])).await;
        }
        bench.push_some(1, 0..20).await;
        let hasty = bench.pool_with("statement_timeout", "400ms");
        bench.start_worker_with(&["--worker-writers", "1"], hasty).await;
        eventually("the others are stored", SOON, || async { bench.newer_events().await == 20 }).await;
        eventually("all of it is set aside", SOON, || async { bench.queue.status().await.unwrap().delayed == 100 })
            .await;
        let tries = sqlx::query_scalar("SELECT last_value FROM tries");
        let tries: i64 = tries.fetch_one(&mut bench.database.superuser().await).await.unwrap();
        assert!(tries < 30, "{refusal}: {tries} tries for 100 events");
        assert!(bench.names_the_old_month().await, "{refusal}: {:?}", bench.blocked().await);
        bench.run("DROP TRIGGER refuse ON events_2001_09").await;
        bench.all_is_stored(120).await;
    }
}

#[tokio::test]
async fn processes_start_while_a_months_table_is_locked() {
    let bench = Bench::new().await;
    bench.with_an_old_month().await;
    let _lock = bench.lock_the_old_month().await;
    let made = partitions::ensure(&bench.pool_of_a_process(), OLD, OLD.plus_seconds(40 * 86_400)).await.unwrap();
    assert_eq!(made, [Month::of(OLD).next()]);
}
