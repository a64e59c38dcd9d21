//! Answers that are made before the body was read: the connection's next request works, or the answer says that there
//! is none.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::http::{config, is_closed_by_peer, read_answer, send, start};
use crate::support::lasts;

/// What makes a server answer early: a path that is not there, a wrong method, a handler that wants no body, a panic.
const EARLY: [(&str, &str); 4] =
    [("POST /none", "404"), ("POST /hello", "405"), ("GET /hello", "200"), ("GET /panic", "500")];
/// Between two packets; longer than it takes to answer.
const BETWEEN: Duration = Duration::from_millis(60);

async fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

fn says_close(answer: &str) -> bool {
    answer.contains("\r\nconnection: close\r\n")
}

#[tokio::test]
async fn a_request_after_one_whose_body_nobody_read_is_answered() {
    let (address, _lifecycle) = start(config()).await;
    for (request, status) in EARLY {
        for (head, packets) in [
            ("content-length: 10", ["01234", "56789"]),
            ("content-length: 10", ["", "0123456789"]),
            ("transfer-encoding: chunked", ["5\r\n01234\r\n", "5\r\n56789\r\n0\r\n\r\n"]),
            ("transfer-encoding: chunked", ["5\r\n01", "234\r\n0\r\nx-trailer: 1\r\n\r\n"]),
        ] {
            let mut stream = connect(address).await;
            for round in 0..3 {
                let first = format!("{request} HTTP/1.1\r\nhost: x\r\n{head}\r\n\r\n{}", packets[0]);
                stream.write_all(first.as_bytes()).await.unwrap();
                lasts(BETWEEN).await;
                stream.write_all(packets[1].as_bytes()).await.unwrap();
                let answer = read_answer(&mut stream).await;
                assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{request} {head}: {answer}");
                assert!(!says_close(&answer), "{request} {head} {round}: {answer}");
                let good = send(&mut stream, "/hello").await;
                assert!(good.starts_with("HTTP/1.1 200"), "{request} {head} {packets:?} {round}: {good}");
            }
        }
    }
}

#[tokio::test]
async fn a_pipelined_request_behind_an_unread_body_is_answered() {
    let (address, _lifecycle) = start(config()).await;
    let mut stream = connect(address).await;
    let two = "POST /none HTTP/1.1\r\nhost: x\r\ncontent-length: 4\r\n\r\nbodyGET /hello HTTP/1.1\r\nhost: x\r\n\r\n";
    stream.write_all(two.as_bytes()).await.unwrap();
    let mut answers = String::new();
    while !answers.contains("127.0.0.1") {
        let answer = read_answer(&mut stream).await;
        assert!(!answer.is_empty(), "{answers}");
        answers += &answer;
    }
    assert!(answers.starts_with("HTTP/1.1 404") && answers.contains("HTTP/1.1 200"), "{answers}");
}

#[tokio::test]
async fn a_body_that_does_not_come_is_not_waited_for() {
    let (address, _lifecycle) = start(config()).await;
    for part in ["content-length: 10\r\n\r\n012", "transfer-encoding: chunked\r\n\r\n5\r\n01"] {
        let mut stream = connect(address).await;
        let started = Instant::now();
        stream.write_all(format!("POST /none HTTP/1.1\r\nhost: x\r\n{part}").as_bytes()).await.unwrap();
        let answer = read_answer(&mut stream).await;
        assert!(answer.starts_with("HTTP/1.1 404") && says_close(&answer), "{answer}");
        assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
        assert!(is_closed_by_peer(&mut stream).await);
    }
}

#[tokio::test]
async fn a_client_that_waits_to_be_invited_is_refused_at_once() {
    let (address, _lifecycle) = start(config()).await;
    // Also one that is short enough to be read.
    for (request, length) in [("POST /none", 9_000_000), ("POST /none", 1_000), ("GET /panic", 1_000)] {
        let mut stream = connect(address).await;
        let head = format!("{request} HTTP/1.1\r\nhost: x\r\nexpect: 100-Continue\r\ncontent-length: {length}\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        let answer = read_answer(&mut stream).await;
        assert!(!answer.contains("100 Continue") && says_close(&answer), "{answer}");
        assert!(is_closed_by_peer(&mut stream).await);
    }
    let mut stream = connect(address).await;
    let head = b"POST /echo HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 4\r\n\r\n";
    stream.write_all(head).await.unwrap();
    assert!(read_answer(&mut stream).await.starts_with("HTTP/1.1 100"), "a body that is wanted is invited");
    stream.write_all(b"good").await.unwrap();
    assert!(read_answer(&mut stream).await.ends_with("good"));
}

#[tokio::test]
async fn a_client_that_sends_far_too_much_still_sees_its_answer() {
    let (address, _lifecycle) = start(config()).await;
    let mut stream = connect(address).await;
    stream.write_all(b"POST /none HTTP/1.1\r\nhost: x\r\ncontent-length: 20000000\r\n\r\n").await.unwrap();
    // More than the buffers of both sides hold: whoever closes early would reset it.
    stream.write_all(&vec![b'x'; 6_000_000]).await.unwrap();
    let answer = read_answer(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 404") && says_close(&answer), "{answer}");
}

/// Damaged chunks, and headers that are too large, leave nothing behind that could be read as a request.
#[tokio::test]
async fn what_cannot_be_read_on_says_that_it_closes() {
    let (address, _lifecycle) = start(config()).await;
    for bytes in [
        "POST /none HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n".to_owned(),
        format!("GET /hello HTTP/1.1\r\nx: {}\r\n\r\n", "x".repeat(40_000)),
        "nonsense\r\n\r\n".to_owned(),
    ] {
        let mut stream = connect(address).await;
        stream.write_all(bytes.as_bytes()).await.unwrap();
        let answer = read_answer(&mut stream).await;
        assert!(answer.starts_with("HTTP/1.1 4") && says_close(&answer), "{answer}");
        assert!(is_closed_by_peer(&mut stream).await);
    }
}

#[tokio::test]
async fn a_refused_connection_reads_a_whole_problem() {
    let mut config = config();
    config.max_connections = 1;
    let (address, _lifecycle) = start(config).await;
    let mut first = connect(address).await;
    assert!(send(&mut first, "/hello").await.starts_with("HTTP/1.1 200"));
    let mut refused = connect(address).await;
    refused.write_all(b"POST /echo HTTP/1.1\r\nhost: x\r\ncontent-length: 4\r\n\r\nbody").await.unwrap();
    let mut answer = String::new();
    refused.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    for header in
        ["date: ", "cache-control: no-store", "retry-after: 1", "x-content-type-options: nosniff", "connection: close"]
    {
        assert!(head.contains(&format!("\r\n{header}")), "{header} in {head}");
    }
    assert!(head.contains("content-type: application/problem+json") && head.contains(" GMT\r\n"), "{head}");
    let body: serde_json::Value = serde_json::from_str(body).unwrap();
    assert_eq!(body["type"], "urn:scoreline:problem:too_many_connections");
    assert!(body["detail"].is_string() && body["retry_after"] == 1, "{body}");
}
