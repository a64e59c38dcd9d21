//! Partitions are there before an event needs them (docs/rules.md#partitions-are-made-ahead).

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use scoreline::domain::month::Month;
use scoreline::store::partitions;

use super::stage::{Stage, at};

async fn names(stage: &Stage) -> Vec<String> {
    let mut connection = stage.pool().acquire().await.unwrap();
    partitions::list(&mut connection).await.unwrap().into_iter().map(|p| p.name).collect()
}

#[tokio::test]
async fn partitions_cover_each_acceptable_event_and_two_months_ahead() {
    // A week and a day before 5 March is still February.
    let stage = Stage::new("2028-03-05T10:00:00Z").await;
    assert_eq!(names(&stage).await, ["events_2028_02", "events_2028_03", "events_2028_04", "events_2028_05"]);
    // The year's edge, and nothing is made twice.
    let (from, to) = partitions::window(at("2028-12-31T23:59:59Z"), 7 * 86_400);
    let made = partitions::ensure(stage.pool(), from, to).await.unwrap();
    let made: Vec<String> = made.into_iter().map(Month::partition_name).collect();
    assert_eq!(made, ["events_2028_12", "events_2029_01", "events_2029_02"]);
    assert_eq!(partitions::ensure(stage.pool(), from, to).await.unwrap(), []);
    let defaults = "SELECT count(*) FROM pg_class WHERE relname LIKE 'events%' AND relkind = 'r'
                       AND pg_get_expr(relpartbound, oid) = 'DEFAULT'";
    assert_eq!(stage.count(defaults).await, 0);
}

#[tokio::test]
async fn an_event_at_a_months_edge_finds_its_partition() {
    let stage = Stage::new("2028-02-20T00:00:00Z").await;
    for edge in ["2028-02-01T00:00:00Z", "2028-02-29T23:59:59.999999Z", "2028-03-01T00:00:00Z"] {
        stage.accept(&[stage.event("p", 1, edge)]).await;
    }
    assert_eq!(stage.count("SELECT count(*) FROM events_2028_02").await, 2);
    assert_eq!(stage.count("SELECT count(*) FROM events_2028_03").await, 1);
    // The range is enforced once, by the partition bound; inserts do not pay for a second check.
    let checks = "SELECT count(*) FROM pg_constraint WHERE conrelid = 'events_2028_02'::regclass AND contype = 'c'";
    assert_eq!(stage.count(checks).await, 0);
    assert_eq!(stage.count("SELECT count(*) FROM pg_index WHERE indrelid = 'events_2028_02'::regclass").await, 1);
}

#[tokio::test]
async fn several_processes_may_make_a_backfills_partitions() {
    let stage = Stage::new("2026-11-21T00:00:00Z").await;
    let ensure = || partitions::ensure(stage.pool(), at("2024-01-15T00:00:00Z"), at("2024-06-15T00:00:00Z"));
    let all = tokio::join!(ensure(), ensure(), ensure(), ensure());
    for made in [all.0, all.1, all.2, all.3] {
        made.unwrap();
    }
    partitions::ensure_for(stage.pool(), at("2019-02-28T12:00:00Z")).await.unwrap();
    let names = names(&stage).await;
    assert!(names.contains(&"events_2019_02".to_owned()));
    assert_eq!(names.iter().filter(|n| n.starts_with("events_2024")).count(), 6);
}

#[tokio::test]
async fn inserts_go_on_while_partitions_come_and_go() {
    let stage = Stage::new("2026-11-21T00:00:00Z").await;
    partitions::ensure_for(stage.pool(), at("2026-01-15T00:00:00Z")).await.unwrap();
    let (done, longest) = (AtomicBool::new(false), AtomicU64::new(0));
    let inserting = async {
        let mut inserted = 0u64;
        while !done.load(Ordering::SeqCst) {
            let began = std::time::Instant::now();
            stage.accept(&[stage.event("p", 1, "2026-11-20T00:00:00Z")]).await;
            longest.fetch_max(began.elapsed().as_millis() as u64, Ordering::SeqCst);
            inserted += 1;
        }
        inserted
    };
    let moving = async {
        // A transaction that has inserted and stays open: what makes a careless attach queue everybody behind it.
        let mut open = stage.pool().begin().await.unwrap();
        sqlx::query(
            "INSERT INTO events (game_id, event_id, occurred_at, received_at, definitions_generation, from_server, type,
                                 player_id, payload)
             VALUES (1, gen_random_uuid(), '2026-11-20', '2026-11-20', 1, false, 't', 'p', '{}')",
        )
        .execute(&mut *open)
        .await
        .unwrap();
        partitions::ensure(stage.pool(), at("2027-03-01T00:00:00Z"), at("2027-09-01T00:00:00Z")).await.unwrap();
        let month = Month::of(at("2026-01-15T00:00:00Z"));
        let detaching = partitions::detach(stage.pool(), month);
        tokio::pin!(detaching);
        // It waits for the open transaction; inserts do not wait for it.
        let waited = tokio::time::timeout(Duration::from_millis(400), &mut detaching).await;
        assert!(waited.is_err(), "a concurrent detach waits for open transactions");
        open.commit().await.unwrap();
        detaching.await.unwrap();
        done.store(true, Ordering::SeqCst);
    };
    let (inserted, ()) = tokio::join!(inserting, moving);
    assert!(inserted > 20, "{inserted}");
    assert!(longest.load(Ordering::SeqCst) < 400, "an insert waited {longest:?} ms");
    assert!(!names(&stage).await.contains(&"events_2026_01".to_owned()));
}
