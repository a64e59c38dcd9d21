//! Looks at an outbox do not walk over what was taken from it, however long somebody's snapshot keeps that.

use std::time::Duration;

use scoreline::aggregator::outlook::Outlook;
use scoreline::store::Transaction;
use scoreline::store::markers::Awaited;
use scoreline::store::outbox::{Glance, Outbox};
use sqlx::pool::PoolConnection;
use sqlx::{Acquire, PgConnection, Postgres};
use tokio::time::Instant;

use super::stage::Stage;

const DEAD: i64 = 400_000;
/// Blocks of 400,000 dead rows, less than there are; and of a look that does not see them, more than it takes.
const MANY: i64 = 1_000;
const FEW: i64 = 60;

/// Blocks of both outboxes, and of their keys, that this transaction has read so far.
async fn blocks(connection: &mut PgConnection) -> i64 {
    sqlx::query_scalar(
        "SELECT sum(pg_stat_get_xact_blocks_fetched(name::regclass))::bigint
           FROM unnest(ARRAY['score_facts', 'score_facts_pkey', 'dirty_entries', 'dirty_entries_pkey']) AS name",
    )
    .fetch_one(connection)
    .await
    .unwrap()
}

/// A stage of which both outboxes were filled and everything was taken from them, and a connection to it. The snapshot
/// is from before, as one of a backup or a long audit may be: nothing that was there may go as long as it stands.
async fn worn() -> (Stage, Transaction, PoolConnection<Postgres>) {
    let stage = Stage::new("2026-11-20T12:00:00Z").await;
    let mut snapshot = stage.pool().begin().await.unwrap();
    sqlx::raw_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ; SELECT 1 FROM games")
        .execute(&mut *snapshot)
        .await
        .unwrap();
    let mut connection = stage.pool().acquire().await.unwrap();
    let facts = "INSERT INTO score_facts (shard, fact_count, min_received_at, facts, games)
                 SELECT n % 4, 1, now(), '', '{1}' FROM generate_series(1, $1) n";
    let markers = "INSERT INTO dirty_entries (shard, entries) SELECT n % 4, '' FROM generate_series(1, $1) n";
    for statement in [facts, markers] {
        sqlx::query(statement).bind(DEAD).execute(&mut *connection).await.unwrap();
    }
    sqlx::raw_sql("DELETE FROM score_facts; DELETE FROM dirty_entries").execute(&mut *connection).await.unwrap();
    (stage, snapshot, connection)
}

async fn add(connection: &mut PgConnection) -> (i64, i64) {
    let fact =
        "INSERT INTO score_facts (shard, fact_count, min_received_at, facts) VALUES (1, 7, now(), '') RETURNING id";
    let marker = "INSERT INTO dirty_entries (shard, entries) VALUES (1, '') RETURNING id";
    let fact = sqlx::query_scalar(fact).fetch_one(&mut *connection).await.unwrap();
    (fact, sqlx::query_scalar(marker).fetch_one(connection).await.unwrap())
}

#[derive(Debug, Clone, Copy)]
enum Look {
    AnyFacts,
    Facts,
    AnyMarkers,
    Markers,
}

impl Look {
    async fn make(self, connection: &mut PgConnection, after: i64) -> Glance {
        let shards = [0, 1, 2, 3];
        match self {
            Self::AnyFacts => Outbox::Facts.any(connection, &shards, after).await,
            Self::Facts => Outbox::Facts.waiting(connection, after).await,
            Self::AnyMarkers => Outbox::Markers.any(connection, &shards, after).await,
            Self::Markers => Outbox::Markers.waiting(connection, after).await,
        }
        .unwrap()
    }
}

#[tokio::test]
async fn most_looks_at_an_outbox_begin_behind_its_dead_rows() {
    let (_stage, snapshot, mut connection) = worn().await;
    for look in [Look::AnyFacts, Look::Facts, Look::AnyMarkers, Look::Markers] {
        let mut transaction = connection.begin().await.unwrap();
        let (began, mut outlook) = (Instant::now(), Outlook::default());
        let mut before = blocks(&mut transaction).await;
        // The second look sees all: who had an id at the first one may commit after it.
        for (seconds, whole) in [(0, true), (3, true), (7, true), (8, false), (9, false), (14, true), (15, false)] {
            let after = outlook.after(began + Duration::from_secs(seconds));
            let glance = look.make(&mut transaction, after).await;
            outlook.saw(glance);
            assert_eq!((glance.count, glance.oldest), (0, None), "{look:?}");
            let now = blocks(&mut transaction).await;
            let read = now - before;
            assert!(if whole { read > MANY } else { read < FEW }, "{look:?} after {seconds} s read {read} blocks");
            before = now;
        }
        let (fact, marker) = add(&mut transaction).await;
        let (waits, oldest) = match look {
            Look::AnyFacts => (1, fact),
            Look::Facts => (7, fact),
            Look::AnyMarkers | Look::Markers => (1, marker),
        };
        let after = outlook.after(began + Duration::from_secs(16));
        let glance = look.make(&mut transaction, after).await;
        assert_eq!((glance.count, glance.oldest), (waits, Some(oldest)), "{look:?}");
        transaction.rollback().await.unwrap();
    }
    snapshot.rollback().await.unwrap();
}

#[tokio::test]
async fn whoever_waits_for_an_outbox_walks_over_its_dead_rows_once() {
    let (_stage, snapshot, mut connection) = worn().await;
    let (_, marker) = add(&mut connection).await;
    let mut transaction = connection.begin().await.unwrap();
    let mut awaited = Awaited::now(&mut transaction).await.unwrap();
    let (_, later) = add(&mut transaction).await;
    let mut before = blocks(&mut transaction).await;
    for turn in 0..4 {
        assert!(awaited.wait(&mut transaction).await.unwrap());
        let now = blocks(&mut transaction).await;
        assert!(if turn == 0 { now - before > MANY } else { now - before < FEW }, "turn {turn}: {}", now - before);
        before = now;
    }
    sqlx::query("DELETE FROM dirty_entries WHERE id = $1").bind(marker).execute(&mut *transaction).await.unwrap();
    assert!(later > marker && !awaited.wait(&mut transaction).await.unwrap(), "nobody waits for what came later");
    snapshot.rollback().await.unwrap();
}

#[tokio::test]
async fn what_was_put_aside_is_counted_apart_from_what_waits() {
    let stage = Stage::new("2026-11-20T12:00:00Z").await;
    let mut connection = stage.pool().acquire().await.unwrap();
    for (waiting, then) in [(0, "UPDATE score_facts SET shard = -2; UPDATE dirty_entries SET shard = -2"), (1, "")] {
        add(&mut connection).await;
        sqlx::raw_sql(then).execute(&mut *connection).await.unwrap();
        for (outbox, held) in Outbox::ALL.into_iter().zip([7, 1]) {
            let glance = outbox.waiting(&mut connection, 0).await.unwrap();
            let aside = outbox.aside(&mut connection).await.unwrap();
            assert_eq!(
                (glance.count, glance.oldest.is_some(), aside),
                (waiting * held, waiting == 1, held),
                "{outbox:?}"
            );
        }
    }
}
