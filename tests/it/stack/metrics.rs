//! What an operator sees of a working system: every figure that dashboards and alerts stand on, and no secret.

use serde_json::{Value, json};

use super::processes::{PATIENCE, address, endpoints, up};
use crate::support::{self, eventually};

/// Series that each role shows once an event has gone all the way; a line contains each of its parts.
const EXPECTED: [(&str, &[&[&str]]); 4] = [
    (
        "ingest",
        &[
            &["scoreline_http_request_seconds_count", "route=\"/v1/events\"", "status=\"202\""],
            &["scoreline_http_request_seconds_bucket", "le=\"0.005\""],
            &["scoreline_ingest_verdicts_total", "verdict=\"accepted\"", "code=\"\""],
            &["scoreline_ingest_verdicts_total", "verdict=\"rejected\"", "code=\"player_id_required\""],
            &["scoreline_ingest_verdicts_total", "verdict=\"duplicate\""],
            &["scoreline_http_connections{"],
        ],
    ),
    (
        "worker",
        &[
            &["scoreline_queue_depth{", "lane=\"high\"", "state=\"waiting\""],
            &["scoreline_queue_depth{", "lane=\"low\"", "state=\"waiting\""],
            &["scoreline_queue_depth{", "state=\"dead\""],
            &["scoreline_queue_oldest_seconds{", "lane=\"high\""],
            &["scoreline_queue_oldest_seconds{", "lane=\"low\""],
            &["scoreline_job_seconds_count", "kind=\"persist-events\""],
            &["scoreline_job_outcomes_total", "kind=\"persist-events\"", "outcome=\"done\""],
            &["scoreline_job_outcomes_total", "kind=\"persist-events\"", "outcome=\"fail\""],
            &["scoreline_events_inserted_total"],
            &["scoreline_events_duplicate_total"],
            &["scoreline_pool_connections{", "state=\"total\""],
            &["scoreline_pool_connections{", "state=\"idle\""],
            &["scoreline_pool_connections{", "state=\"waiting\""],
            &["scoreline_pool_connections{", "state=\"max\""],
        ],
    ),
    (
        "cron",
        &[
            &["scoreline_facts_waiting"],
            &["scoreline_facts_folded_total"],
            &["scoreline_accept_to_rank_seconds_count"],
            &["scoreline_queue_depth{", "lane=\"high\"", "state=\"waiting\""],
            &["scoreline_scheduled_runs_total"],
            &["scoreline_pool_connections{", "state=\"idle\""],
        ],
    ),
    (
        "api",
        &[
            &["scoreline_http_request_seconds_count", "route=\"/v1/leaderboards/{slug}/entries\"", "status=\"200\""],
            &["scoreline_pool_connections{", "state=\"waiting\""],
        ],
    ),
];

fn missing(metrics: &str, expected: &[&[&str]]) -> Vec<String> {
    let has = |parts: &[&str]| metrics.lines().any(|line| parts.iter().all(|part| line.contains(part)));
    expected.iter().filter(|parts| !has(parts)).map(|parts| parts.join(" … ")).collect()
}

async fn post(at: &Value, key: &str, events: &Value) -> u16 {
    let body = events.to_string();
    let request = format!(
        "POST /v1/events HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    support::http::request(address(&at["ingest"]), &request).await.0
}

#[tokio::test]
async fn every_role_measures_what_its_alerts_stand_on_and_tells_no_secret() {
    let home = std::env::temp_dir().join(format!("scoreline-metrics-{}", std::process::id()));
    let program = up(&home);
    let at = endpoints(&home, &program).await;
    let now = scoreline::runtime::clock::system().now().to_string();
    let event = |player: &str| {
        json!({"event_id": uuid::Uuid::new_v4(), "type": "game_ended", "player_id": player, "occurred_at": now,
               "payload": {"score": 7}})
    };
    let (first, mut broken) = (event("canary-player"), event("x"));
    broken.as_object_mut().unwrap().remove("player_id");
    let events = json!([first, first, broken]);
    let key = at["client_key"].as_str().unwrap();
    for _ in 0..2 {
        assert_eq!(post(&at, key, &events).await, 202);
    }
    assert_eq!(post(&at, "sl_client_canary-guess", &events).await, 401);
    let page = format!(
        "GET /v1/leaderboards/global/entries HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\nConnection: close\r\n\r\n"
    );
    assert_eq!(support::http::request(address(&at["api"]), &page).await.0, 200);
    let secrets: Vec<String> = ["client_key", "server_key", "admin_token", "database_url", "redis_url"]
        .into_iter()
        .map(|name| at[name].as_str().unwrap().to_owned())
        .chain(["postgres.password", "redis.password"].map(|file| std::fs::read_to_string(home.join(file)).unwrap()))
        .chain(["canary".to_owned()])
        .collect();
    for (role, expected) in EXPECTED {
        let listener = address(&at["ops"][role]);
        let started = std::time::Instant::now();
        loop {
            let metrics = support::http::get(listener, "/metrics").await.1;
            let absent = missing(&metrics, expected);
            if absent.is_empty() {
                let told = secrets.iter().find(|secret| metrics.contains(secret.trim()));
                assert!(told.is_none(), "{role} tells a secret:\n{metrics}");
                break;
            }
            assert!(started.elapsed() < PATIENCE, "{role} lacks {absent:#?} in\n{metrics}");
            support::look_again().await;
        }
    }
    let worker = address(&at["ops"]["worker"]);
    eventually("both rows and repeats are counted", PATIENCE, || async {
        let metrics = support::http::get(worker, "/metrics").await.1;
        ["scoreline_events_inserted_total{role=\"worker\"} 1", "scoreline_events_duplicate_total{role=\"worker\"} 1"]
            .iter()
            .all(|line| metrics.lines().any(|l| l == *line))
    })
    .await;
    drop(program);
    std::fs::remove_dir_all(home).unwrap();
}
