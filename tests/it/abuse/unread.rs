//! A refusal costs its own request only: at both doors the next request on its connection works, or the refusal has
//! said that the connection closes.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::stage::Stage;
use crate::support::lasts;

/// Between the packet of a header and that of its body.
const BETWEEN: Duration = Duration::from_millis(50);

/// One answer: its status, and whether it closes the connection. `None`: the connection broke.
async fn answer(stream: &mut TcpStream) -> Option<(u16, bool)> {
    let mut bytes = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        match stream.read(&mut buffer).await {
            Ok(read @ 1..) => bytes.extend_from_slice(&buffer[..read]),
            _ => return None,
        }
        let text = String::from_utf8_lossy(&bytes);
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
        if body.len() >= length.unwrap_or(0) {
            return Some((head.split(' ').nth(1)?.parse().ok()?, head.contains("connection: close")));
        }
    }
}

/// Sends a request whose body comes in a packet of its own, chunked or not, and then a good one.
async fn refused_then_good(address: SocketAddr, refused: (&str, u16), good: &(String, String), chunked: bool) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let (head, status) = refused;
    let body = r#"[{"type":"t","player_id":"p"}]"#;
    let (length, body) = if chunked {
        ("transfer-encoding: chunked".to_owned(), format!("{:x}\r\n{body}\r\n0\r\n\r\n", body.len()))
    } else {
        (format!("content-length: {}", body.len()), body.to_owned())
    };
    stream.write_all(format!("{head}\r\n{length}\r\n\r\n{}", &body[..4]).as_bytes()).await.unwrap();
    lasts(BETWEEN).await;
    stream.write_all(&body.as_bytes()[4..]).await.unwrap();
    let (found, closes) = answer(&mut stream).await.unwrap_or_else(|| panic!("{head}: no answer"));
    assert_eq!((found, closes), (status, false), "{head}");
    let (head, body) = good;
    stream.write_all(format!("{head}\r\ncontent-length: {}\r\n\r\n{body}", body.len()).as_bytes()).await.unwrap();
    let (found, _) = answer(&mut stream).await.unwrap_or_else(|| panic!("after {} the connection is dead", refused.0));
    assert!((200..300).contains(&found), "after {}: {found}", refused.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_costs_its_own_request_only() {
    let stage = Stage::new().await;
    let (server, client) = (&stage.mine.server, &stage.mine.client);
    let post = |path: &str, key: &str, more: &str| {
        format!("POST {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\n{more}")
    };
    let json = "content-type: application/json";
    let ingest = [
        (post("/v1/events", "nobody", json), 401),
        (post("/v1/elsewhere", server, json), 404),
        (format!("PUT /v1/events HTTP/1.1\r\nhost: x\r\n{json}"), 405),
        (post("/v1/events", server, "content-type: text/xml"), 415),
        (post("/v1/events", server, "content-type: application/json\r\ncontent-encoding: lzma"), 415),
        (post("/v1/events", server, "content-type: application/json\r\nidempotency-key: short"), 400),
    ];
    let event = json!([{"type": "t", "player_id": "p"}]).to_string();
    let good = (post("/v1/events", server, json), event);
    for (head, status) in &ingest {
        for chunked in [false, true] {
            refused_then_good(stage.ingest, (head, *status), &good, chunked).await;
        }
    }
    let api = [
        (post("/v1/admin/leaderboards", "nobody", json), 401),
        (post("/v1/admin/leaderboards", client, json), 403),
        (post("/v1/admin/games", server, json), 403),
        (post("/v1/nothing", server, json), 404),
        (format!("PATCH /v1/leaderboards HTTP/1.1\r\nhost: x\r\n{json}"), 405),
        (post("/v1/leaderboards/nobody/entries/lookup", client, json), 404),
        (post("/v1/admin/leaderboards/nobody/rebuild", server, json), 404),
        (post("/v1/admin/keys", server, json), 400),
    ];
    let good =
        (post("/v1/leaderboards/canary-board/entries/lookup", client, json), json!({"player_ids": []}).to_string());
    for (head, status) in &api {
        for chunked in [false, true] {
            refused_then_good(stage.world.address, (head, *status), &good, chunked).await;
        }
    }
    // An operations listener is one of ours too.
    let head = "POST /readyz HTTP/1.1\r\nhost: x".to_owned();
    let good = ("GET /healthz HTTP/1.1\r\nhost: x".to_owned(), String::new());
    refused_then_good(stage.operations, (&head, 405), &good, false).await;
}
