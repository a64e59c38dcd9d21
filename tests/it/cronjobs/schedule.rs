//! The schedule table: of several crons one acts (docs/rules.md#frozen-processes-keep-no-lock).

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use scoreline::aggregator::schedule::{self, Context, JOBS, run_once};
use scoreline::runtime::lifecycle::Lifecycle;
use serde_json::json;

use super::stage::Stage;
use crate::support::eventually;

#[test]
fn every_job_has_a_name_of_its_own_and_a_cadence_that_parses() {
    let names: HashSet<&str> = JOBS.iter().map(|job| job.name).collect();
    assert_eq!(names.len(), JOBS.len());
    for job in JOBS {
        assert!(tokio_cron_scheduler::Job::new(job.cadence, |_, _| {}).is_ok(), "{}", job.name);
    }
}

#[tokio::test]
async fn every_job_runs_at_start_and_the_schedule_stops_when_told() {
    let stage = Stage::new("2026-11-20T12:00:00Z").await;
    stage.live("daily", json!({"reset": "daily"})).await;
    stage.accept(&[stage.event("a", 1, "2026-11-20T01:00:00Z")]).await;
    stage.fold().await;
    stage.set_now("2027-02-01T00:00:00Z");
    let lifecycle = Lifecycle::default();
    let running = tokio::spawn(schedule::run((*stage.context).clone(), lifecycle.clone()));
    eventually("partitions are made", Duration::from_secs(10), async || {
        stage.count("SELECT count(*) FROM pg_class WHERE relname = 'events_2027_04' AND relispartition").await == 1
    })
    .await;
    eventually("the period is closed", Duration::from_secs(10), async || {
        stage.count("SELECT count(*) FROM period_standings").await == 1
    })
    .await;
    eventually("the current period exists", Duration::from_secs(10), async || {
        stage.count("SELECT count(*) FROM leaderboard_periods WHERE starts_at = '2027-02-01'").await == 1
    })
    .await;
    lifecycle.soft.cancel();
    tokio::time::timeout(Duration::from_secs(10), running).await.expect("stops").unwrap();
    // Signed off: another process takes over at once.
    let held = "SELECT count(*) FROM leases WHERE name LIKE 'job-%' AND expires_at > clock_timestamp()";
    assert_eq!(stage.count(held).await, 0);
}

#[tokio::test]
async fn a_job_runs_in_one_process_at_a_time() {
    let stage = Stage::new("2026-11-20T12:00:00Z").await;
    let job = JOBS.iter().find(|job| job.name == "ensure-periods").unwrap();
    let held = stage.tenure("job-ensure-periods").await;
    let other = Arc::new(Context { holder: "other".into(), ..(*stage.context).clone() });
    assert!(!run_once(&other, job).await, "somebody else is at it");
    held.sign_off().await;
    assert!(run_once(&other, job).await);
}

#[tokio::test]
async fn the_audit_reads_every_board_with_a_start_only_if_it_did_not_lately() {
    let stage = Stage::new("2026-11-20T12:00:00Z").await;
    stage.live("daily", json!({"reset": "daily"})).await;
    let record = async |ended_at: &'static str, outcome: &'static str| {
        sqlx::query("DELETE FROM scheduled_runs").execute(stage.pool()).await.unwrap();
        let insert = "INSERT INTO scheduled_runs (job, ended_at, outcome, did) VALUES ('audit-boards', $1::text::timestamptz, $2, 77)";
        sqlx::query(insert).bind(ended_at).bind(outcome).execute(stage.pool()).await.unwrap();
    };
    let others = i64::try_from(JOBS.len()).unwrap() - 1;
    for (ended_at, outcome, audits) in [
        ("2026-11-20T11:30:00Z", "done", false),
        ("2026-11-20T10:30:00Z", "done", true),
        ("2026-11-20T11:30:00Z", "failed", true),
    ] {
        record(ended_at, outcome).await;
        let lifecycle = Lifecycle::default();
        let running = tokio::spawn(schedule::run((*stage.context).clone(), lifecycle.clone()));
        eventually("the jobs have run", Duration::from_secs(10), async || {
            let ran = stage.count("SELECT count(*) FROM scheduled_runs WHERE did <> 77").await;
            ran == others + i64::from(audits)
        })
        .await;
        lifecycle.soft.cancel();
        running.await.unwrap();
        let kept = stage.count("SELECT count(*) FROM scheduled_runs WHERE did = 77").await;
        assert_eq!(kept, i64::from(!audits), "{ended_at} {outcome}");
    }
}

/// A job whose one transaction takes longer than its lease lasts, as the ranking of a large period does.
#[tokio::test]
async fn a_long_transaction_of_a_job_neither_loses_its_lease_nor_troubles_others() {
    let stage = Stage::new("2026-11-20T12:00:00Z").await;
    let job = JOBS.iter().find(|job| job.name == "ensure-periods").unwrap();
    let tenure = stage.tenure("job-ensure-periods").await;
    let working = tenure.begin().await.unwrap();
    let renewed = "SELECT count(*) FROM leases
                    WHERE name = 'job-ensure-periods' AND expires_at > clock_timestamp() + interval '4.5 s'";
    // It was renewed at its beginning, and is again a second later.
    sqlx::query("UPDATE leases SET expires_at = clock_timestamp() + interval '2 s'")
        .execute(stage.pool())
        .await
        .unwrap();
    eventually("it is renewed", Duration::from_secs(10), async || stage.count(renewed).await == 1).await;
    let other = Arc::new(Context { holder: "other".into(), ..(*stage.context).clone() });
    let asked = std::time::Instant::now();
    assert!(!run_once(&other, job).await, "somebody else is at it");
    // Also where its renewals did not come through: the transaction goes on all the same.
    tenure.sign_off().await;
    assert!(!run_once(&other, job).await, "somebody else is still at it");
    assert!(asked.elapsed() < Duration::from_secs(2), "nobody waits: {:?}", asked.elapsed());
    assert_eq!(stage.count("SELECT count(*) FROM scheduled_runs").await, 0, "that is no failure");
    working.commit().await.unwrap();
    assert!(run_once(&other, job).await);
}
