//! Secrets planted everywhere a secret is given, and hostile texts everywhere a text is taken: the first appear
//! nowhere, the others forge nothing.

use std::process::Command;

use scoreline::bench::load::Connection;
use serde_json::Value;

use super::planted::{Planted, SECRETS};
use crate::support::{eventually, http};

/// Texts that forge a line, a field or a terminal's screen where they are written as they are.
const FORGERIES: [&str; 4] = [
    "x\\\",\\\"level\\\":\\\"ERROR\\\",\\\"forged\\\":\\\"1",
    "x%0a{\"level\":\"ERROR\",\"message\":\"forged\"}",
    "x%1b[2Jforged",
    "forged\u{2028}forged",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn planted_secrets_appear_nowhere_and_no_log_line_is_forged() {
    let mut planted = Planted::start().await;
    let (ingest, api) = (planted.ingest, planted.api);
    let event = |player: &str| {
        format!(
            r#"{{"type":"game_ended","player_id":"{player}","payload":{{"score":1,"note":"{}"}}}}"#,
            SECRETS.payload
        )
    };
    // What goes well.
    let mut door = Connection::open(ingest).await.unwrap();
    for key in [&planted.client_key, &planted.server_key] {
        assert_eq!(door.post("/v1/events", key, event("p").as_bytes()).await.unwrap(), 202);
    }
    eventually("it is stored", crate::support::system::PATIENCE, || async {
        let stored: i64 =
            sqlx::query_scalar("SELECT count(*) FROM events").fetch_one(&planted.database.pool).await.unwrap();
        stored >= 2
    })
    .await;
    // What does not.
    let mut said = Vec::new();
    for (address, path) in
        [(ingest, "/v1/events"), (api, "/v1/admin/games"), (api, "/v1/leaderboards"), (api, "/nothing")]
    {
        for authorization in [
            format!("Bearer {}", SECRETS.guess),
            format!("Basic {}", SECRETS.basic),
            format!("Bearer {}", planted.client_key),
            format!("Bearer {}x", SECRETS.admin),
        ] {
            for text in FORGERIES {
                let body = format!("{{\"player_id\":\"{text}\",\"note\":\"{}\"", SECRETS.payload);
                let request = format!(
                    "POST {path}?token={} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: {authorization}\r\n\
                     X-Request-Id: {text}\r\nUser-Agent: {text}\r\nX-Forwarded-For: {text}\r\nContent-Length: {}\r\n\r\n{body}",
                    SECRETS.query,
                    body.len()
                );
                said.push(http::request(address, &request).await.1);
            }
        }
    }
    for path in ["/v1/leaderboards/%0aforged%1b[2J", "/docs/%0aforged", "/v1/leaderboards/x/entries/%22forged"] {
        said.push(http::get(api, path).await.1);
    }
    let get = async |path: &str, key: &str| {
        let request =
            format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer {key}\r\n\r\n");
        http::request(api, &request).await
    };
    for path in ["/v1/admin/games", "/v1/admin/audit-log", "/v1/admin/queues", "/v1/admin/keys?game=demo"] {
        let (status, text) = get(path, SECRETS.admin).await;
        assert_eq!(status, 200, "{path}: {text}");
        said.push(text);
    }
    // Connections that break, and a role that never gets one.
    planted.break_connections().await;
    planted.start_with_wrong_passwords().await;
    for path in ["/healthz", "/readyz", "/health/pool", "/metrics", "/nothing"] {
        for operations in planted.operations() {
            said.push(http::get(operations, path).await.1);
        }
    }
    // What operators are shown.
    for arguments in
        [&["config"][..], &["config", "--json"], &["config", "--offline"], &["config", "--help"], &["queue", "status"]]
    {
        let mut command = Command::new(env!("CARGO_BIN_EXE_scoreline"));
        let output = command.args(arguments).envs(planted.environment()).output().unwrap();
        assert!(!output.stdout.is_empty(), "{arguments:?}");
        said.push(String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr));
    }
    said.extend(planted.redis_says());
    let logs = planted.stop().await;
    assert!(logs.len() > 20, "{} lines", logs.len());
    for line in &logs {
        let record: Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
        assert!(record["timestamp"].is_string() && record["level"].is_string(), "{line}");
        assert!(record["forged"].is_null() && record["message"] != "forged", "{line}");
        assert!(!line.contains(['\u{1b}', '\u{2028}']), "{line}");
    }
    assert!(logs.iter().any(|line| line.contains("\"DEBUG\"")), "the logs are those of LOG=debug");
    for text in said.iter().chain(&logs) {
        for (what, secret) in planted.secrets() {
            assert!(!text.contains(&secret), "{what} appears: {text}");
        }
    }
}
