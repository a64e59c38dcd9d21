//! What browsers are shown: no page repeats what it was asked, and every answer says what it is.

use hyper::Method;
use serde_json::Value;

use super::stage::{Door, Stage};

const HOSTILE: [&str; 6] = [
    "%3Cscript%3Ealert(1)%3C/script%3E",
    "%22%3E%3Cimg%20src=x%20onerror=alert(1)%3E",
    "..%2f..%2f..%2fetc%2fpasswd",
    "%2e%2e/%2e%2e/Cargo.toml",
    "%0d%0aSet-Cookie:%20a=b",
    "%00",
];

#[tokio::test]
async fn pages_and_refusals_repeat_nothing_that_a_browser_would_run() {
    let stage = Stage::new().await;
    for hostile in HOSTILE {
        let paths = [
            (Door::Api, format!("/docs/{hostile}")),
            (Door::Api, format!("/docs/?url={hostile}&configUrl={hostile}")),
            (Door::Api, format!("/{hostile}")),
            (Door::Api, format!("/openapi.json?{hostile}")),
            (Door::Api, format!("/v1/public/{hostile}/leaderboards")),
            (Door::Api, format!("/v1/public/canary-game/leaderboards/open-board/entries/{hostile}")),
            (
                Door::Api,
                format!("/v1/public/canary-game/leaderboards/open-board/entries?cursor={hostile}&limit={hostile}"),
            ),
            (Door::Ingest, format!("/v1/events/{hostile}")),
            (Door::Ingest, format!("/{hostile}?{hostile}")),
            (Door::Operations, format!("/{hostile}")),
            (Door::Operations, format!("/metrics?{hostile}")),
        ];
        for (door, path) in paths {
            let answer = stage.ask(door, &Method::GET, &path, None, &Value::Null).await;
            let text = String::from_utf8_lossy(&answer.body).into_owned();
            for forbidden in ["<script>alert", "onerror=alert", "root:x:0", "[package]"] {
                assert!(!text.contains(forbidden), "{path}: {text}");
            }
            assert!(!answer.headers.contains_key("set-cookie"), "{path}");
            assert!(answer.status.as_u16() < 500, "{path}: {}", answer.status);
            let kind = answer.header("content-type");
            let page = path.starts_with("/docs/?") && kind.starts_with("text/html");
            if door != Door::Operations {
                let refusal = answer.status.is_client_error();
                assert!(
                    page || kind.starts_with("application/") || !refusal,
                    "{path}: {} {kind} {text}",
                    answer.status
                );
                assert_eq!(answer.header("x-content-type-options"), "nosniff", "{path}");
            }
            if door == Door::Api {
                let policy = answer.header("content-security-policy");
                assert!(policy.contains("default-src 'none'") && policy.contains("frame-ancestors 'none'"), "{policy}");
                assert!(!policy.contains("script-src 'unsafe"), "{policy}");
            }
        }
    }
}
