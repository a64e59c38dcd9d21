//! Beacons in the moment in which a replica takes over.

use scoreline::store::beacons::{self, Beacon};
use scoreline::store::pool::Pool;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};

use super::arena::Arena;

/// Connections of the arena's database to which its log is shown as this code says.
async fn whose_log_says(arena: &Arena, code: &str) -> Pool {
    sqlx::raw_sql(sqlx::AssertSqlSafe(format!(
        "CREATE OR REPLACE FUNCTION public.pg_current_wal_lsn() RETURNS pg_lsn LANGUAGE plpgsql AS $$ BEGIN
             RAISE EXCEPTION 'no' USING ERRCODE = '{code}';
         END $$"
    )))
    .execute(&mut arena.database.superuser().await)
    .await
    .unwrap();
    let options: PgConnectOptions = arena.database.url.parse().unwrap();
    let options = options.options([("search_path", "public,pg_catalog")]);
    PgPoolOptions::new().max_connections(1).connect_with(options).await.unwrap().into()
}

/// It has the beacon, and not what was committed after it; on which timeline it will be it cannot tell yet.
#[tokio::test]
async fn a_replica_that_has_not_taken_over_yet_is_not_believed() {
    let arena = Arena::new().await;
    let told = beacons::write(arena.pool()).await.unwrap();
    assert!(beacons::stands(arena.pool(), &told).await.unwrap());
    let replica = whose_log_says(&arena, "55000").await;
    assert!(beacons::stands(&replica, &told).await.is_err());
    assert!(beacons::write_after(&replica, &told).await.is_err());
    assert!(beacons::write(&replica).await.is_err());
    // A hosted server may never tell.
    let hosted = whose_log_says(&arena, "42501").await;
    assert!(beacons::stands(&hosted, &told).await.unwrap());
    let next = beacons::write_after(&hosted, &told).await.unwrap().unwrap();
    assert!(beacons::stands(&hosted, &next).await.unwrap());
}

/// Whoever asked the server before, and writes to the one after, would cover up what the replica lacks.
#[tokio::test]
async fn a_beacon_is_written_only_where_the_one_before_stands() {
    let arena = Arena::new().await;
    let told = beacons::write(arena.pool()).await.unwrap();
    let next = beacons::write_after(arena.pool(), &told).await.unwrap().unwrap();
    assert!(next.sequence > told.sequence && next.mark != told.mark);
    let lost = Beacon { mark: uuid::Uuid::nil(), ..told };
    assert_eq!(beacons::write_after(arena.pool(), &lost).await.unwrap(), None);
    sqlx::query("UPDATE beacons SET timeline = '00000000'").execute(arena.pool()).await.unwrap();
    assert_eq!(beacons::write_after(arena.pool(), &next).await.unwrap(), None, "promoted since");
    assert_eq!(arena.count("SELECT count(*) FROM beacons").await, 2);
}

/// One is written every four seconds, by a server that shows its log and by one that does not.
#[tokio::test]
async fn a_day_of_beacons_is_kept_and_no_more() {
    let arena = Arena::new().await;
    let hosted = whose_log_says(&arena, "42501").await;
    for pool in [arena.pool(), &hosted] {
        let many = "INSERT INTO beacons (mark, timeline) SELECT gen_random_uuid(), '' FROM generate_series(1, 20050)";
        sqlx::query(many).execute(arena.pool()).await.unwrap();
        let told = beacons::write(pool).await.unwrap();
        beacons::write_after(pool, &told).await.unwrap().unwrap();
        let kept = arena.count("SELECT count(*) FROM beacons").await;
        assert!((20_000..20_010).contains(&kept), "{kept}");
    }
}
