//! Every refusal of a whole request, and bad input.

use std::time::Duration;

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::batches::pack;
use super::door::{self, CLIENT, SERVER, event, queued};
use crate::support::redis::redis;

#[tokio::test]
async fn each_refusal_has_its_status_and_code_and_queues_nothing() {
    let redis = redis();
    let door = door::open(door::settings(&redis)).await;
    let good = event(1, "t", "p").to_string();
    let deep = "[".repeat(100_000);
    let bodies: [(&[u8], u16, &str); 12] = [
        (b"", 400, "body_not_json"),
        (b"[{\"type\":", 400, "body_not_json"),
        (b"[NaN]", 400, "body_not_json"),
        (b"{]", 400, "body_not_json"),
        (deep.as_bytes(), 400, "body_not_json"),
        (b"[\"\xff\"]", 400, "body_not_utf8"),
        (b"7", 400, "body_wrong_shape"),
        (b"null", 400, "body_wrong_shape"),
        (b"{\"events\":7}", 400, "body_wrong_shape"),
        (b"[]", 400, "batch_empty"),
        (b"{\"events\":[]}", 400, "batch_empty"),
        (b"[7]", 422, "all_events_rejected"),
    ];
    for (body, status, code) in bodies {
        door.send(SERVER, &[], body).await.refused(status, code);
    }
    for (headers, status, code) in [
        (("content-type", "text/plain"), 415, "content_type_unknown"),
        (("content-type", "application/xml"), 415, "content_type_unknown"),
        (("content-encoding", "compress"), 415, "content_encoding_unknown"),
        (("content-encoding", "gzip, br"), 415, "content_encoding_unknown"),
        (("content-encoding", "gzip"), 400, "content_encoding_invalid"),
        (("content-encoding", "zstd"), 400, "content_encoding_invalid"),
    ] {
        door.send(SERVER, &[headers], good.as_bytes()).await.refused(status, code);
    }
    let half = &pack("gzip", good.as_bytes()).await[..20];
    door.send(SERVER, &[("content-encoding", "gzip")], half).await.refused(400, "content_encoding_invalid");
    let not_found = door.request("POST", "/v1/nothing", &[], good.as_bytes()).await;
    not_found.refused(404, "not_found");
    let wrong = door.request("GET", "/v1/events", &[], b"").await;
    wrong.refused(405, "method_not_allowed");
    assert_eq!(wrong.headers["allow"], "POST");
    assert!(wrong.headers.contains_key("x-request-id"));
    assert_eq!(queued(&redis), 0);
}

#[tokio::test]
async fn only_known_keys_get_in() {
    let redis = redis();
    let door = door::open(door::settings(&redis)).await;
    let good = event(1, "t", "p").to_string();
    for (headers, code) in [
        (vec![], "key_missing"),
        (vec![("authorization", "Bearer ")], "key_missing"),
        (vec![("authorization", "Digest abc")], "key_missing"),
        (vec![("authorization", "Bearer wrong")], "key_unknown"),
        (vec![("authorization", "Basic !!!")], "key_unknown"),
        (vec![("authorization", "Basic d3Jvbmc6")], "key_unknown"),
    ] {
        let answer = door.request("POST", "/v1/events", &headers, good.as_bytes()).await;
        answer.refused(401, code);
        assert!(answer.headers["www-authenticate"].starts_with("Bearer"));
    }
    door.send(&"x".repeat(5_000), &[], good.as_bytes()).await.refused(401, "key_unknown");
    assert_eq!(queued(&redis), 0);
    door.directory.store(std::sync::Arc::default());
    let answer = door.send(CLIENT, &[], good.as_bytes()).await;
    answer.refused(503, "directory_unavailable");
    assert!(answer.headers.contains_key("retry-after"));
}

#[tokio::test]
async fn guessing_at_keys_is_limited_per_address() {
    let redis = redis();
    let mut settings = door::settings(&redis);
    settings.limits.rate_limit_requests = 0;
    let door = door::open(settings).await;
    let good = event(1, "t", "p").to_string();
    let max = scoreline::http::failed_guesses::MAX_FAILED_GUESSES;
    for guess in 0..max {
        door.send(&format!("guess-{guess}"), &[], good.as_bytes()).await.refused(401, "key_unknown");
    }
    door.send("another-guess", &[], good.as_bytes()).await.refused(429, "too_many_unknown_keys");
    // Whoever guesses must not lock out the players behind the same address.
    for key in [CLIENT, SERVER] {
        assert_eq!(door.send(key, &[], good.as_bytes()).await.status, 202);
    }
    door.pass(60);
    door.send("another-guess", &[], good.as_bytes()).await.refused(401, "key_unknown");
}

#[tokio::test]
async fn a_batch_of_101_is_refused_with_the_limit_and_nothing_is_queued() {
    let redis = redis();
    let door = door::open(door::settings(&redis)).await;
    let batch: Vec<_> = (0..101).map(|i| event(i, "t", "p")).collect();
    let answer = door.post(SERVER, &json!(batch)).await;
    answer.refused(413, "batch_too_long");
    assert_eq!(answer.body["limit"], 100);
    assert_eq!(queued(&redis), 0);
    door.post(SERVER, &json!(batch[..100])).await.counts(100, 0, 0, 0);
}

#[tokio::test]
async fn too_many_bytes_are_refused_packed_or_unpacked() {
    let redis = redis();
    let door = door::open(door::settings(&redis)).await;
    let large = vec![b' '; 512 * 1024 + 1];
    let answer = door.send(SERVER, &[], &large).await;
    answer.refused(413, "body_too_large");
    assert_eq!(answer.body["limit"], 512 * 1024);
    // Without a length, too.
    let mut chunked =
        b"POST /v1/events HTTP/1.1\r\nhost: t\r\nconnection: close\r\ntransfer-encoding: chunked\r\n".to_vec();
    chunked.extend_from_slice(format!("authorization: Bearer {SERVER}\r\n\r\n").as_bytes());
    for piece in large.chunks(65_536) {
        chunked.extend_from_slice(format!("{:x}\r\n", piece.len()).as_bytes());
        chunked.extend_from_slice(piece);
        chunked.extend_from_slice(b"\r\n");
    }
    chunked.extend_from_slice(b"0\r\n\r\n");
    door.raw(&chunked).await.refused(413, "body_too_large");
    // A bomb: 200 MB in 200 kB.
    let zeros = vec![b' '; 200 * 1024 * 1024];
    for encoding in ["gzip", "zstd", "br"] {
        let bomb = pack(encoding, if encoding == "br" { &zeros[..20_000_000] } else { &zeros }).await;
        assert!(bomb.len() < 512 * 1024);
        let before = resident_kb();
        let headers = [("content-encoding", encoding)];
        let answers = futures_util::future::join_all((0..8).map(|_| door.send(SERVER, &headers, &bomb))).await;
        answers.iter().for_each(|answer| answer.refused(413, "body_too_large"));
        assert!(resident_kb() < before + 100_000, "memory is flat");
    }
}

fn resident_kb() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|l| l.starts_with("VmRSS")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[tokio::test]
async fn a_body_that_stalls_is_408() {
    let redis = redis();
    let mut settings = door::settings(&redis);
    settings.http.http_body_timeout_seconds = 1;
    let door = door::open(settings).await;
    let mut stream = tokio::net::TcpStream::connect(door.address).await.unwrap();
    let head =
        format!("POST /v1/events HTTP/1.1\r\nhost: t\r\nauthorization: Bearer {SERVER}\r\ncontent-length: 50\r\n\r\n[");
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = String::new();
    let read = tokio::time::timeout(Duration::from_secs(20), stream.read_to_string(&mut answer)).await;
    read.expect("the connection is closed").unwrap();
    assert!(answer.starts_with("HTTP/1.1 408") && answer.contains("body_timeout"), "{answer}");
    assert!(
        answer.to_lowercase().contains("connection: close"),
        "what comes of the body later is no request: {answer}"
    );
}

#[tokio::test]
async fn hostile_bytes_never_cost_more_than_their_own_request() {
    let redis = redis();
    let door = door::open(door::settings(&redis)).await;
    let mut seed = 0x5EED_u64;
    let base = json!([event(1, "game_ended", "p"), event(2, "t", "q")]).to_string().into_bytes();
    for _ in 0..300 {
        let mut body = base.clone();
        for _ in 0..3 {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let at = (seed >> 33) as usize % body.len();
            body[at] = (seed >> 20) as u8;
        }
        let answer = door.send(SERVER, &[], &body).await;
        assert!([202, 400, 422].contains(&answer.status), "{answer:?} to {}", String::from_utf8_lossy(&body));
    }
}
