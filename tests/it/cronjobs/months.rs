//! What stops one month past retention stops no other.

use std::time::Duration;

use scoreline::aggregator::baseline::{Step, fold_chunk};
use scoreline::aggregator::retention::drop_old_months;
use scoreline::aggregator::schedule::Context;
use scoreline::domain::month::Month;
use scoreline::store::Pool;
use scoreline::store::event_scan::Pace;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};

use super::retention::with_history;
use super::stage::{Stage, at};

/// Jobs whose patience with locks ends sooner than that of cron.
async fn impatient(stage: &Stage) -> Context {
    let options: PgConnectOptions = stage.database.url.parse().unwrap();
    let pool = PgPoolOptions::new().connect_with(options.options([("lock_timeout", "300ms")])).await.unwrap();
    Context { pool: Pool::new(pool), ..(*stage.context).clone() }
}

async fn run(stage: &Stage, statement: &'static str) {
    sqlx::raw_sql(statement).execute(&mut stage.database.superuser().await).await.unwrap();
}

/// Whether the tables of January, February and March are there.
async fn tables(stage: &Stage) -> [bool; 3] {
    let mut there = [false; 3];
    for (table, there) in ["events_2026_01", "events_2026_02", "events_2026_03"].iter().zip(&mut there) {
        let asked = sqlx::query_scalar("SELECT to_regclass($1) IS NOT NULL").bind(table);
        *there = asked.fetch_one(stage.pool()).await.unwrap();
    }
    there
}

async fn fold(stage: &Stage, month: &str) {
    let tenure = stage.tenure("job-drop-old-months").await;
    let month = Month::of(at(month));
    while fold_chunk(&stage.context, &tenure, month, &mut Pace::new(5_000)).await.unwrap() == Step::More {}
    tenure.sign_off().await;
}

#[tokio::test]
async fn a_detached_month_that_is_read_keeps_no_other() {
    let stage = Stage::new("2026-11-21T00:00:00Z").await;
    with_history(&stage).await;
    fold(&stage, "2026-01-15T00:00:00Z").await;
    run(&stage, "ALTER TABLE events DETACH PARTITION events_2026_01").await;
    let mut reader = stage.pool().begin().await.unwrap();
    sqlx::query("SELECT count(*) FROM events_2026_01").execute(&mut *reader).await.unwrap();
    let (context, tenure) = (impatient(&stage).await, stage.tenure("job-drop-old-months").await);
    assert!(drop_old_months(&context, &tenure).await.is_err(), "it is said");
    assert_eq!(tables(&stage).await, [true, false, false]);
    reader.rollback().await.unwrap();
    assert_eq!(drop_old_months(&context, &tenure).await.unwrap(), 1);
    assert_eq!(tables(&stage).await, [false; 3]);
}

#[tokio::test]
async fn a_month_that_cannot_be_counted_keeps_no_other() {
    let stage = Stage::new("2026-11-21T00:00:00Z").await;
    with_history(&stage).await;
    // Only January has events.
    run(
        &stage,
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             RAISE EXCEPTION 'refused' USING ERRCODE = '22012';
         END $$;
         CREATE TRIGGER refuse BEFORE INSERT ON entry_baseline FOR EACH ROW EXECUTE FUNCTION refuse()",
    )
    .await;
    let tenure = stage.tenure("job-drop-old-months").await;
    assert!(drop_old_months(&stage.context, &tenure).await.is_err(), "it is said");
    assert_eq!(tables(&stage).await, [true, false, false]);
    run(&stage, "DROP TRIGGER refuse ON entry_baseline").await;
    assert_eq!(drop_old_months(&stage.context, &tenure).await.unwrap(), 1);
}

/// Postgres begins no other detach before that one is finished; what is detached can go, and be counted.
#[tokio::test]
async fn an_unfinished_detach_keeps_no_detached_month() {
    let stage = Stage::new("2026-11-21T00:00:00Z").await;
    with_history(&stage).await;
    fold(&stage, "2026-01-15T00:00:00Z").await;
    fold(&stage, "2026-03-15T00:00:00Z").await;
    run(&stage, "ALTER TABLE events DETACH PARTITION events_2026_03").await;
    let mut open = stage.pool().begin().await.unwrap();
    sqlx::query("SELECT count(*) FROM events").execute(&mut *open).await.unwrap();
    let context = impatient(&stage).await;
    let half = sqlx::query("ALTER TABLE events DETACH PARTITION events_2026_01 CONCURRENTLY");
    assert!(half.execute(&context.pool).await.is_err());
    open.rollback().await.unwrap();
    // A backup begins.
    let mut dump = stage.pool().begin().await.unwrap();
    sqlx::query("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ").execute(&mut *dump).await.unwrap();
    sqlx::query("SELECT count(*) FROM games").execute(&mut *dump).await.unwrap();
    let tenure = stage.tenure("job-drop-old-months").await;
    let dropping = tokio::time::timeout(Duration::from_secs(60), drop_old_months(&context, &tenure));
    assert!(dropping.await.expect("its patience ends").is_err(), "it is said");
    assert_eq!(tables(&stage).await, [true, true, false]);
    assert_eq!(stage.count("SELECT count(*) FROM baseline_progress WHERE folded_at IS NOT NULL").await, 3);
    dump.rollback().await.unwrap();
    assert_eq!(drop_old_months(&context, &tenure).await.unwrap(), 2);
    assert_eq!(tables(&stage).await, [false; 3]);
}
