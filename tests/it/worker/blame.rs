//! Whose fault it is: what is not known to be the data's costs no attempt, and what fails alone holds nobody up.

use rustix::process::{Pid, Signal, kill_process};
use scoreline::domain::clock::Micros;
use scoreline::domain::event::Event;
use scoreline::domain::month::Month;
use scoreline::runtime::clock;
use scoreline::store::partitions;
use scoreline::store::pool::Pool;
use scoreline::store::settings::PostgresConfig;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};

use super::{Bench, SOON, event, job, now};
use crate::support::{eventually, http};

impl Bench {
    pub(super) async fn push_some(&self, game: i32, jobs: std::ops::Range<u128>) {
        for i in jobs {
            self.push(&format!("job-{i}"), &job(game, &[event(i, "p-1", r#"{"score":1}"#)])).await;
        }
    }

    /// What is shown of jobs that are set aside: game and error.
    pub(super) async fn blocked(&self) -> Vec<(i32, String)> {
        let blocked = self.queue.status().await.unwrap().blocked;
        blocked.into_iter().map(|blocked| (blocked.game.0, blocked.error)).collect()
    }

    pub(super) async fn all_is_stored(&self, events: i64) {
        self.drained().await;
        assert_eq!(self.events().await, events);
        self.nothing_was_charged().await;
        assert_eq!(self.count("SELECT count(*) FROM dead_letters").await, 0);
    }

    /// A trigger that refuses the events of player `bad` with this SQLSTATE.
    async fn refuse_bad_players(&self, code: &str) {
        let trigger = format!(
            "CREATE OR REPLACE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                 IF NEW.player_id = 'bad' THEN RAISE EXCEPTION 'not this one' USING ERRCODE = '{code}'; END IF;
                 RETURN NEW;
             END $$;
             CREATE OR REPLACE TRIGGER refuse BEFORE INSERT ON events FOR EACH ROW EXECUTE FUNCTION refuse();"
        );
        self.run(&trigger).await;
    }
}

/// A role of a test's own that may do everything the worker does.
struct OwnRole {
    name: String,
    url: String,
    admin: PgConnectOptions,
}

impl OwnRole {
    async fn new(bench: &Bench) -> Self {
        let admin = bench.database.as_superuser();
        let name = format!("r_{}", uuid::Uuid::new_v4().simple());
        let role = Self { url: String::new(), name, admin };
        // It owns nothing, so it can make no month.
        partitions::ensure_for(bench.pool(), now()).await.unwrap();
        role.run("CREATE ROLE {r} LOGIN PASSWORD 'first'").await;
        role.run("GRANT ALL ON ALL TABLES IN SCHEMA public TO {r}").await;
        role.run("GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO {r}").await;
        let rest = bench.database.url.rsplit_once('@').unwrap().1;
        Self { url: format!("postgres://{}:first@{rest}", role.name), ..role }
    }

    async fn run(&self, sql: &str) {
        let mut connection = PgConnection::connect_with(&self.admin).await.unwrap();
        connection.execute(AssertSqlSafe(sql.replace("{r}", &self.name))).await.unwrap();
    }

    fn pool(&self) -> Pool {
        PgPoolOptions::new().max_connections(4).connect_lazy(&self.url).unwrap().into()
    }

    async fn end_connections(&self) {
        self.run("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{r}'").await;
    }

    /// Roles belong to the server, which outlives the test.
    async fn remove(self) {
        self.end_connections().await;
        self.run("DROP OWNED BY {r}").await;
        self.run("DROP ROLE {r}").await;
    }
}

#[tokio::test]
async fn a_read_only_server_costs_no_attempt_and_all_is_stored_afterwards() {
    let bench = Bench::new().await;
    let role = OwnRole::new(&bench).await;
    bench.start_worker_on(role.pool()).await;
    bench.push_some(1, 0..5).await;
    bench.drained().await;
    role.run("ALTER ROLE {r} SET default_transaction_read_only = on").await;
    role.end_connections().await;
    bench.push_some(1, 5..40).await;
    bench.waits_for_postgres("read-only").await;
    role.run("ALTER ROLE {r} RESET default_transaction_read_only").await;
    bench.all_is_stored(40).await;
    assert_eq!(bench.facts().await.len(), 40);
    assert_eq!(bench.health.trouble(tokio::time::Instant::now()), None);
    bench.lifecycle.hard.cancel();
    role.remove().await;
}

#[tokio::test]
async fn a_changed_password_costs_no_attempt() {
    let bench = Bench::new().await;
    let role = OwnRole::new(&bench).await;
    bench.start_worker_on(role.pool()).await;
    role.run("ALTER ROLE {r} PASSWORD 'second'").await;
    role.end_connections().await;
    bench.push_some(1, 0..20).await;
    bench.waits_for_postgres("password").await;
    role.run("ALTER ROLE {r} PASSWORD 'first'").await;
    bench.all_is_stored(20).await;
    bench.lifecycle.hard.cancel();
    role.remove().await;
}

#[tokio::test]
async fn rights_that_are_withdrawn_cost_no_attempt() {
    let bench = Bench::new().await;
    let role = OwnRole::new(&bench).await;
    bench.start_worker_on(role.pool()).await;
    let mut stored = 0;
    for (rights, table) in [("INSERT", "events"), ("INSERT", "score_facts"), ("UPDATE", "games")] {
        role.run(&format!("REVOKE {rights} ON {table} FROM {{r}}")).await;
        bench.push_some(1, stored..stored + 10).await;
        bench.waits_for_postgres(table).await;
        assert_eq!(bench.blocked().await, [], "nobody is set aside while it is the server");
        role.run(&format!("GRANT {rights} ON {table} TO {{r}}")).await;
        stored += 10;
        bench.all_is_stored(stored.try_into().unwrap()).await;
    }
    bench.lifecycle.hard.cancel();
    role.remove().await;
}

/// An unknown code, one that usually means the server's disk, one of a lost connection, and one of a lock.
#[tokio::test]
async fn what_fails_alone_is_set_aside_whatever_its_code_and_others_go_on() {
    for code in ["ZZ999", "53100", "08006", "40001"] {
        let bench = Bench::new().await;
        bench.with_another_game().await;
        bench.refuse_bad_players(code).await;
        let mixed = [event(900, "good", "{}"), event(901, "bad", "{}")];
        bench.push("mixed", &job(2, &mixed)).await;
        bench.push_some(1, 0..30).await;
        bench.push_some(2, 30..40).await;
        bench.start_worker().await;
        eventually("all others are stored", SOON, || async { bench.events().await == 41 }).await;
        bench.push_some(1, 40..50).await;
        eventually("and later ones are", SOON, || async { bench.events().await == 51 }).await;
        eventually("it is shown as blocked", SOON, || async {
            let blocked = bench.blocked().await;
            blocked.len() == 1 && blocked[0].0 == 2 && blocked[0].1.contains(&format!("SQLSTATE {code}"))
        })
        .await;
        assert!(!bench.blocked().await[0].1.contains("not this one"), "the server's own words are in the log only");
        let told = bench.health.set_aside(tokio::time::Instant::now()).unwrap();
        assert!(told.starts_with("jobs of game 2 are set aside"), "{told}");
        assert_eq!(bench.health.trouble(tokio::time::Instant::now()), None, "nobody else waits");
        bench.run("DROP TRIGGER refuse ON events").await;
        bench.all_is_stored(52).await;
        assert_eq!(bench.blocked().await, [], "{code}");
        assert_eq!(bench.health.set_aside(tokio::time::Instant::now()), None);
    }
}

#[tokio::test]
async fn a_group_of_two_games_and_two_months_is_stored() {
    let bench = Bench::new().await;
    bench.with_another_game().await;
    let old = Event { occurred_at: Micros::from_seconds(1_000_000_000), ..event(1, "p-1", r#"{"score":1}"#) };
    for game in [1, 2] {
        bench.push(&format!("both-{game}"), &job(game, &[old, event(2, "p-1", r#"{"score":2}"#)])).await;
    }
    bench.start_worker().await;
    bench.all_is_stored(4).await;
}

/// More of them than are tried one by one.
#[tokio::test]
async fn a_game_of_which_nothing_can_be_stored_is_set_aside_as_a_whole() {
    let bench = Bench::new().await;
    bench.with_another_game().await;
    bench.run(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             IF NEW.game_id = 2 THEN PERFORM nextval('tries'); RAISE EXCEPTION 'none of it' USING ERRCODE = 'ZZ999'; END IF;
             RETURN NEW;
         END $$;
         CREATE SEQUENCE tries;
         GRANT USAGE ON SEQUENCE tries TO PUBLIC;
         CREATE TRIGGER refuse BEFORE INSERT ON events FOR EACH ROW EXECUTE FUNCTION refuse();",
    )
    .await;
    bench.push_some(2, 0..200).await;
    bench.push_some(1, 200..210).await;
    bench.start_worker().await;
    eventually("the others are stored", SOON, || async { bench.events().await == 10 }).await;
    eventually("all of it is set aside", SOON, || async { bench.queue.status().await.unwrap().delayed == 200 }).await;
    let tries = sqlx::query_scalar("SELECT last_value FROM tries");
    let tries: i64 = tries.fetch_one(&mut bench.database.superuser().await).await.unwrap();
    assert!(tries < 100, "{tries} tries for 200 events");
    bench.run("DROP TRIGGER refuse ON events").await;
    bench.all_is_stored(210).await;
}

#[tokio::test]
async fn a_group_that_takes_too_long_is_written_in_parts() {
    let bench = Bench::new().await;
    bench
        .run(
            "CREATE SEQUENCE begun MINVALUE 0;
         CREATE SEQUENCE ended MINVALUE 0;
         CREATE FUNCTION dawdle() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             PERFORM CASE WHEN TG_LEVEL = 'ROW' THEN pg_sleep (0.02)::text ELSE nextval(TG_ARGV[0])::text END;
             RETURN NEW;
         END $$;
         GRANT USAGE ON SEQUENCE begun, ended TO PUBLIC;
         CREATE TRIGGER begun BEFORE INSERT ON events FOR EACH STATEMENT EXECUTE FUNCTION dawdle('begun');
         CREATE TRIGGER ended AFTER INSERT ON events FOR EACH STATEMENT EXECUTE FUNCTION dawdle('ended');
         CREATE TRIGGER dawdle BEFORE INSERT ON events FOR EACH ROW EXECUTE FUNCTION dawdle();",
        )
        .await;
    let options: PgConnectOptions = bench.database.url.parse().unwrap();
    let hasty = PgPoolOptions::new().connect_lazy_with(options.options([("statement_timeout", "400ms")]));
    // One writer, so that the second group finds what the first has learnt.
    bench.start_worker_with(&["--worker-writers", "1"], hasty.into()).await;
    let mut ended_early = Vec::new();
    for (name, ids) in [("much", 0..100), ("more", 100..200)] {
        let events: Vec<Event<'_>> = ids.clone().map(|i| event(i, "p-1", r#"{"score":1}"#)).collect();
        bench.push(name, &job(1, &events)).await;
        bench.all_is_stored(ids.end.try_into().unwrap()).await;
        let all = sqlx::query_scalar("SELECT b.last_value - e.last_value FROM begun b, ended e");
        let all: i64 = all.fetch_one(&mut bench.database.superuser().await).await.unwrap();
        ended_early.push(all - ended_early.iter().sum::<i64>());
    }
    // One of 100, two of 50, four of 25; the next group is in parts from the start.
    assert!(ended_early[0] >= 7 && ended_early[1] < 4, "{ended_early:?}");
}

#[tokio::test]
async fn events_of_a_month_that_is_detached_wait_for_it_and_others_do_not() {
    let bench = Bench::new().await;
    let moment = Micros::from_seconds(1_000_000_000);
    partitions::create(bench.pool(), Month::of(moment)).await.unwrap();
    bench.run("ALTER TABLE events DETACH PARTITION events_2001_09").await;
    let old = Event { occurred_at: moment, ..event(1, "p-1", r#"{"score":1}"#) };
    bench.push("old", &job(1, &[old, event(2, "p-1", r#"{"score":2}"#)])).await;
    bench.start_worker().await;
    eventually("the other event is stored", SOON, || async { bench.events().await == 1 }).await;
    eventually("it is shown as blocked", SOON, || async {
        bench.blocked().await.iter().any(|(game, error)| *game == 1 && error.contains("events_2001_09"))
    })
    .await;
    bench.push_some(1, 10..20).await;
    eventually("others go on", SOON, || async { bench.events().await == 11 }).await;
    // The month begins anew.
    bench.run("DROP TABLE events_2001_09").await;
    bench.all_is_stored(12).await;
}

/// The server's process is stopped; its kernel goes on acknowledging what is sent to it.
#[tokio::test]
async fn a_connection_that_answers_nothing_is_replaced() {
    let bench = Bench::new().await;
    let arguments = ["test", "--database-url", &bench.database.url, "--db-statement-seconds", "1"];
    let config = <Settings as clap::Parser>::parse_from(arguments).postgres;
    bench.start_worker_on(Pool::lazy(&config, "worker").unwrap()).await;
    bench.push_some(1, 0..5).await;
    bench.drained().await;
    let stopped = Stopped::all_of(&bench, "scoreline worker").await;
    bench.push_some(1, 5..20).await;
    eventually("the worker's other connections store it", SOON, || async { bench.events().await == 20 }).await;
    bench.all_is_stored(20).await;
    drop(stopped);
}

#[derive(clap::Parser)]
pub(super) struct Settings {
    #[command(flatten)]
    pub(super) postgres: PostgresConfig,
}

/// Processes of Postgres that stand still until this is dropped.
struct Stopped(Vec<Pid>);

impl Stopped {
    async fn all_of(bench: &Bench, application: &str) -> Self {
        let pids: Vec<i32> = sqlx::query_scalar(
            "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND application_name = $1",
        )
        .bind(application)
        .fetch_all(bench.pool())
        .await
        .unwrap();
        assert!(!pids.is_empty());
        let pids: Vec<Pid> = pids.into_iter().filter_map(Pid::from_raw).collect();
        pids.iter().for_each(|pid| kill_process(*pid, Signal::STOP).unwrap());
        Self(pids)
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        for pid in &self.0 {
            let _ = kill_process(*pid, Signal::CONT);
        }
    }
}

#[derive(clap::Parser)]
struct RoleSettings {
    #[command(flatten)]
    worker: scoreline::process::roles::worker::WorkerSettings,
}

/// A question to the server does not show what the work meets.
#[tokio::test]
async fn readiness_hears_what_the_work_met() {
    let bench = Bench::new().await;
    bench.refuse_bad_players("ZZ999").await;
    let arguments =
        ["test", "--database-url", &bench.database.url, "--redis-url", &bench.redis.url, "--ops-listen", "127.0.0.1:0"];
    let settings = <RoleSettings as clap::Parser>::parse_from(arguments).worker;
    let running =
        scoreline::process::roles::worker::start(settings, clock::system(), &bench.lifecycle).await.unwrap().operations;
    let told = |status: u16, text: &'static str| async move {
        let (found, body) = http::get(running, "/readyz").await;
        found == status && body.contains(text)
    };
    bench.push("bad", &job(1, &[event(1, "bad", "{}")])).await;
    eventually("one job degrades it", SOON, || told(200, "jobs of game 1 are set aside")).await;
    assert!(told(200, r#""state":"degraded""#).await);
    // Another trigger makes our own write fail, too: now it is the server.
    bench
        .run(
            "CREATE FUNCTION nobody() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             RAISE EXCEPTION 'nobody' USING ERRCODE = 'ZZ998';
         END $$;
         CREATE TRIGGER a_none BEFORE INSERT ON events FOR EACH ROW EXECUTE FUNCTION nobody();",
        )
        .await;
    bench.push_some(1, 10..20).await;
    eventually("that nothing is written makes it unready", SOON, || told(503, "nothing could be written")).await;
    bench.run("DROP TRIGGER a_none ON events; DROP TRIGGER refuse ON events").await;
    eventually("and it is ready again", SOON, || told(200, r#""state":"ready""#)).await;
    bench.all_is_stored(11).await;
}

/// Whenever its events are written, its definitions have just changed.
#[tokio::test]
async fn a_game_that_keeps_changing_its_boards_holds_up_no_other() {
    let bench = Bench::new().await;
    bench.with_another_game().await;
    bench
        .run(
            "CREATE FUNCTION change() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                 IF NEW.game_id = 2 THEN
                     UPDATE games SET definitions_generation = definitions_generation + 1 WHERE id = 2;
                 END IF;
                 RETURN NEW;
             END $$;
             CREATE TRIGGER change BEFORE INSERT ON events FOR EACH ROW EXECUTE FUNCTION change();",
        )
        .await;
    bench.push_some(1, 0..50).await;
    bench.push_some(2, 50..100).await;
    bench.start_worker().await;
    eventually("the other game is stored meanwhile", SOON, || async { bench.events().await == 50 }).await;
    eventually("it is set aside", SOON, || async {
        bench.blocked().await.iter().any(|(game, error)| *game == 2 && error.contains("definitions change"))
    })
    .await;
    bench.run("DROP TRIGGER change ON events").await;
    bench.all_is_stored(100).await;
}

#[tokio::test]
async fn a_writer_that_panics_goes_on_and_only_the_job_at_fault_pays() {
    let bench = Bench::new().await;
    let _scenario = fail::FailScenario::setup();
    // The group, and then the first of its jobs alone.
    fail::cfg("persist_events::before_commit", "2*panic->off").unwrap();
    bench.push_some(1, 0..10).await;
    bench.start_worker().await;
    bench.drained().await;
    assert_eq!(bench.events().await, 10);
    let totals = bench.queue.status().await.unwrap().totals;
    assert_eq!((totals.get("retried"), totals.get("dead")), (Some(&1), None), "{totals:?}");
    assert!(!bench.lifecycle.has_failed());
}
