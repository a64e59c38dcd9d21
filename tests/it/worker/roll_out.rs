//! Definitions of another time: a restored database, or a newer program beside this one.

use scoreline::domain::event::Event;
use uuid::Uuid;

use super::{Bench, SOON, event, job};
use crate::support::eventually;

/// A worker that lives through a restore meets the number of the definitions that it knows, for other definitions.
#[tokio::test]
async fn definitions_of_a_restored_database_are_loaded_anew() {
    let bench = Bench::new().await;
    bench.start_worker().await;
    bench.push("before", &job(1, &[event(1, "p-1", r#"{"score":1}"#)])).await;
    bench.drained().await;
    sqlx::raw_sql(
        "UPDATE games SET definitions_generation = 0 WHERE id = 1;
         UPDATE leaderboard_generations SET state = 'retired';
         INSERT INTO leaderboard_generations (leaderboard_id, since_generation, spec, state)
         SELECT id, 1, spec || '{\"score\": 42}', 'live' FROM leaderboards;
         UPDATE games SET definitions_generation = 1 WHERE id = 1;",
    )
    .execute(bench.pool())
    .await
    .unwrap();
    bench.push("after", &job(1, &[event(2, "p-2", r#"{"score":1}"#)])).await;
    bench.drained().await;
    assert_eq!(bench.facts().await, [("p-1".to_owned(), 1), ("p-2".to_owned(), 42)]);
}

/// A newer api accepted a definition that this worker cannot read: what may count for it waits for who can.
#[tokio::test]
async fn events_of_an_unreadable_leaderboard_wait_for_who_can_read_it() {
    let bench = Bench::new().await;
    let define = async |reset: &'static str| {
        sqlx::query("UPDATE leaderboard_generations SET spec = spec || jsonb_build_object('reset', $1::text)")
            .bind(reset)
            .execute(bench.pool())
            .await
            .unwrap();
    };
    define("lunar").await;
    bench.start_worker().await;
    let other = Event { event_type: "other", ..event(2, "p-2", "{}") };
    bench.push("mixed", &job(1, &[event(1, "p-1", r#"{"score":1}"#), other])).await;
    bench.push("other", &job(1, &[Event { event_id: Uuid::from_u128(3), ..other }])).await;
    eventually("what feeds nothing unknown is stored", SOON, || async { bench.events().await == 2 }).await;
    eventually("the job waits", SOON, || async {
        let delayed: i64 = redis::cmd("ZCARD").arg("{sl:q0}:delayed").query(&mut bench.redis.connection()).unwrap();
        delayed == 1
    })
    .await;
    assert_eq!(bench.count("SELECT count(*) FROM events WHERE type = 'game_ended'").await, 0);
    // It can be read again, and nobody says so.
    define("never").await;
    bench.drained().await;
    assert_eq!((bench.events().await, bench.facts().await), (3, vec![("p-1".to_owned(), 1)]));
    assert_eq!(bench.count("SELECT count(*) FROM dead_letters").await, 0);
}

/// What feeds it cannot be read either: then any event of its game may.
#[tokio::test]
async fn a_leaderboard_whose_event_type_cannot_be_read_keeps_all_events_of_its_game() {
    let bench = Bench::new().await;
    bench.with_another_game().await;
    bench.run(r#"UPDATE leaderboard_generations SET spec = spec || '{"event_type": {"any": []}}'"#).await;
    bench.start_worker().await;
    let other = |id| Event { event_type: "other", ..event(id, "p-1", "{}") };
    bench.push("kept", &job(1, &[event(1, "p-1", r#"{"score":1}"#), other(2)])).await;
    bench.push("others", &job(2, &[other(3)])).await;
    eventually("the other game goes on", SOON, || async { bench.events().await == 1 }).await;
    eventually("the job waits", SOON, || async { bench.queue.status().await.unwrap().delayed == 1 }).await;
    assert_eq!(bench.count("SELECT count(*) FROM events WHERE game_id = 1").await, 0);
    bench.run(r#"UPDATE leaderboard_generations SET spec = spec || '{"event_type": "game_ended"}'"#).await;
    bench.drained().await;
    assert_eq!((bench.events().await, bench.facts().await), (3, vec![("p-1".to_owned(), 1)]));
}
