//! The public listener's caps and deadlines, through real sockets.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::extract::{ConnectInfo, Request};
use axum::routing::{get, post};
use scoreline::domain::clock::{Clock, Micros};
use scoreline::http::connection::Deadlines;
use scoreline::http::server::{ServerConfig, serve};
use scoreline::runtime::lifecycle::{Ended, Lifecycle};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::support::{eventually, lasts};

const LONG: Duration = Duration::from_secs(60);
const SHORT: Duration = Duration::from_millis(300);
const PATIENCE: Duration = Duration::from_secs(10);

pub fn config() -> ServerConfig {
    ServerConfig {
        role: "test",
        deadlines: Deadlines { header: LONG, idle: LONG, write: LONG },
        max_connections: 100,
        max_connections_per_address: 100,
        trusted_proxies: Vec::new(),
        drain: Duration::ZERO,
    }
}

pub async fn start(config: ServerConfig) -> (SocketAddr, Lifecycle) {
    let (address, lifecycle, _) = start_counting(config).await;
    (address, lifecycle)
}

/// As [`start`], with the number of requests that were begun.
async fn start_counting(config: ServerConfig) -> (SocketAddr, Lifecycle, Arc<AtomicUsize>) {
    let begun = Arc::<AtomicUsize>::default();
    let counting = Arc::clone(&begun);
    let lifecycle = Lifecycle::default();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let release = lifecycle.clone();
    let router = Router::new()
        .route("/hello", get(|ConnectInfo(peer): ConnectInfo<SocketAddr>| async move { peer.ip().to_string() }))
        .route(
            "/panic",
            get(|| async {
                if true {
                    panic!("on purpose")
                }
            }),
        )
        .route("/echo", post(|body: String| async move { body }))
        .route("/large", get(|| async { "x".repeat(64 * 1024 * 1024) }))
        .route(
            "/slow",
            get(move || async move {
                release.soft.cancelled().await;
                lasts(Duration::from_millis(50)).await;
                "finished"
            }),
        )
        .layer(axum::middleware::map_request(move |request: Request| {
            counting.fetch_add(1, Ordering::SeqCst);
            async move { request }
        }));
    tokio::spawn(serve(listener, router, config, Clock::from_fn(|| Micros::EPOCH), lifecycle.clone()));
    (address, lifecycle, begun)
}

pub async fn send(stream: &mut TcpStream, path: &str) -> String {
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes()).await.unwrap();
    read_answer(stream).await
}

pub async fn read_answer(stream: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let read = tokio::time::timeout(PATIENCE, stream.read(&mut buffer)).await.expect("an answer").unwrap();
        answer.extend_from_slice(&buffer[..read]);
        let text = String::from_utf8_lossy(&answer);
        if read == 0 {
            return text.into_owned();
        }
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length =
                head.lines().find_map(|l| l.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok());
            if body.len() >= length.unwrap_or(0) {
                return text.into_owned();
            }
        }
    }
}

pub async fn is_closed_by_peer(stream: &mut TcpStream) -> bool {
    let mut buffer = [0; 1024];
    loop {
        match tokio::time::timeout(PATIENCE, stream.read(&mut buffer)).await {
            Ok(Ok(0) | Err(_)) => return true,
            Ok(Ok(_)) => {}
            Err(_) => return false,
        }
    }
}

#[tokio::test]
async fn thousands_of_slow_headers_do_not_starve_a_good_client() {
    let mut config = config();
    config.deadlines.header = SHORT;
    config.max_connections = 5_000;
    config.max_connections_per_address = 5_000;
    let (address, _lifecycle) = start(config).await;
    let mut slow = Vec::new();
    for _ in 0..2_000 {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(b"GET /hello HTTP/1.1\r\nHost: x\r\nX-Slow: ").await.unwrap();
        slow.push(stream);
    }
    let mut good = TcpStream::connect(address).await.unwrap();
    assert!(send(&mut good, "/hello").await.ends_with("127.0.0.1"));
    for stream in &mut slow {
        assert!(is_closed_by_peer(stream).await, "a slow header was waited for");
    }
}

#[tokio::test]
async fn a_connection_that_trickles_its_header_is_closed_at_the_deadline_all_the_same() {
    let mut config = config();
    config.deadlines.header = SHORT;
    let (address, _lifecycle) = start(config).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(b"GET /hello HTTP/1.1\r\n").await.unwrap();
    let started = tokio::time::Instant::now();
    while stream.write_all(b"X: y\r\n").await.is_ok() {
        assert!(started.elapsed() < PATIENCE, "each byte gave it more time");
        lasts(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn an_idle_connection_is_closed_and_a_used_one_is_kept() {
    let mut config = config();
    config.deadlines.idle = 3 * SHORT;
    let (address, _lifecycle) = start(config).await;
    let mut used = TcpStream::connect(address).await.unwrap();
    for _ in 0..5 {
        assert!(send(&mut used, "/hello").await.starts_with("HTTP/1.1 200"));
        lasts(SHORT).await;
    }
    assert!(is_closed_by_peer(&mut used).await);
    let mut silent = TcpStream::connect(address).await.unwrap();
    assert!(is_closed_by_peer(&mut silent).await);
}

#[tokio::test]
async fn a_request_that_takes_long_is_not_idle() {
    let mut config = config();
    config.deadlines.idle = SHORT;
    config.deadlines.header = SHORT;
    let (address, lifecycle) = start(config).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    lasts(2 * SHORT).await;
    lifecycle.soft.cancel();
    assert!(read_answer(&mut stream).await.ends_with("finished"));
}

#[tokio::test]
async fn caps_hold_and_are_given_back() {
    for (in_all, of_an_address) in [(100, 3), (3, 100)] {
        let mut config = config();
        (config.max_connections, config.max_connections_per_address) = (in_all, of_an_address);
        let (address, _lifecycle) = start(config).await;
        let mut open = Vec::new();
        for _ in 0..3 {
            let mut stream = TcpStream::connect(address).await.unwrap();
            assert!(send(&mut stream, "/hello").await.starts_with("HTTP/1.1 200"));
            open.push(stream);
        }
        let mut refused = TcpStream::connect(address).await.unwrap();
        let answer = read_answer(&mut refused).await;
        assert!(answer.starts_with("HTTP/1.1 503") && answer.contains("too_many_connections"), "{answer}");
        open.clear();
        eventually("room again", PATIENCE, || async {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(b"GET /hello HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
            read_answer(&mut stream).await.starts_with("HTTP/1.1 200")
        })
        .await;
    }
}

#[tokio::test]
async fn a_client_that_does_not_read_its_answer_does_not_keep_its_connection() {
    let mut config = config();
    config.deadlines.write = SHORT;
    config.max_connections = 1;
    let (address, _lifecycle) = start(config).await;
    let mut greedy = TcpStream::connect(address).await.unwrap();
    greedy.write_all(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    assert_eq!(greedy.read(&mut [0; 12]).await.unwrap(), 12, "the answer has begun");
    eventually("its place is free", PATIENCE, || async {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(b"GET /hello HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        read_answer(&mut stream).await.starts_with("HTTP/1.1 200")
    })
    .await;
}

/// Nobody is idle who still reads, however little time idle connections have.
#[tokio::test]
async fn a_client_that_reads_slowly_gets_its_whole_answer() {
    let mut config = config();
    config.deadlines.idle = SHORT;
    let (address, _lifecycle) = start(config).await;
    let mut slow = TcpStream::connect(address).await.unwrap();
    slow.write_all(b"GET /large HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut read = slow.read(&mut [0; 12]).await.unwrap();
    lasts(3 * SHORT).await;
    let mut buffer = vec![0; 1 << 20];
    while let Ok(more @ 1..) = slow.read(&mut buffer).await {
        read += more;
    }
    assert!(read > 64 * 1024 * 1024, "only {read} bytes");
}

#[tokio::test]
async fn a_crowded_listener_does_not_keep_idle_connections() {
    let mut config = config();
    config.max_connections = 4;
    let (address, _lifecycle) = start(config).await;
    let mut open = Vec::new();
    for _ in 0..3 {
        let mut stream = TcpStream::connect(address).await.unwrap();
        assert!(send(&mut stream, "/hello").await.starts_with("HTTP/1.1 200"));
        open.push(stream);
    }
    // The third made it three quarters.
    assert!(is_closed_by_peer(&mut open[2]).await);
}

#[tokio::test]
async fn headers_are_bounded() {
    let (address, _lifecycle) = start(config()).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    let large = format!("GET /hello HTTP/1.1\r\nHost: x\r\nX-Large: {}\r\n\r\n", "x".repeat(40_000));
    stream.write_all(large.as_bytes()).await.unwrap();
    assert!(read_answer(&mut stream).await.starts_with("HTTP/1.1 431"));
    assert!(is_closed_by_peer(&mut stream).await);
}

#[tokio::test]
async fn a_listener_that_drains_answers_until_it_is_told_to_end_and_sends_clients_away() {
    let mut config = config();
    config.drain = LONG;
    let (address, lifecycle) = start(config).await;
    let mut kept = TcpStream::connect(address).await.unwrap();
    assert!(!send(&mut kept, "/hello").await.contains("connection: close"));
    lifecycle.soft.cancel();
    // A load balancer has yet to notice, on the connection that it has and on a new one.
    let late = TcpStream::connect(address).await.unwrap();
    for mut stream in [kept, late] {
        let answer = send(&mut stream, "/hello").await;
        assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("connection: close"), "{answer}");
        assert!(is_closed_by_peer(&mut stream).await);
    }
    let mut idle = TcpStream::connect(address).await.unwrap();
    lifecycle.hard.cancel();
    assert!(is_closed_by_peer(&mut idle).await);
    eventually("nobody listens", PATIENCE, || async { TcpStream::connect(address).await.is_err() }).await;
}

#[tokio::test]
async fn a_drain_ends_at_one_time_for_all_however_late_they_came() {
    const DRAIN: Duration = Duration::from_secs(5);
    let mut config = config();
    config.drain = DRAIN;
    let (address, lifecycle) = start(config).await;
    lifecycle.soft.cancel();
    lasts(DRAIN * 7 / 10).await;
    let came = tokio::time::Instant::now();
    let mut late = TcpStream::connect(address).await.unwrap();
    eventually("it is taken", PATIENCE, async || lifecycle.tasks.len() == 1).await;
    assert!(is_closed_by_peer(&mut late).await);
    assert!(came.elapsed() < DRAIN, "it had a drain of its own");
}

#[tokio::test]
async fn a_trusted_proxy_has_no_cap_of_its_own() {
    let mut config = config();
    config.max_connections_per_address = 1;
    config.trusted_proxies = vec!["127.0.0.0/8".parse().unwrap()];
    let (address, _lifecycle) = start(config).await;
    let mut open = Vec::new();
    for _ in 0..10 {
        let mut stream = TcpStream::connect(address).await.unwrap();
        assert!(send(&mut stream, "/hello").await.starts_with("HTTP/1.1 200"));
        open.push(stream);
    }
}

#[tokio::test]
async fn a_panic_costs_its_own_request_only() {
    let (address, _lifecycle) = start(config()).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    let answer = send(&mut stream, "/panic").await;
    assert!(answer.starts_with("HTTP/1.1 500"), "{answer}");
    // Like every other problem.
    for part in ["internal_error", "no-store", "nosniff", "application/problem+json", "\"detail\":"] {
        assert!(answer.contains(part), "{part} in {answer}");
    }
    assert!(!answer.contains("on purpose"), "{answer}");
    assert!(send(&mut stream, "/hello").await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn a_soft_stop_finishes_requests_in_hand_and_takes_no_new_ones() {
    let (address, lifecycle, begun) = start_counting(config()).await;
    let mut idle = TcpStream::connect(address).await.unwrap();
    assert!(send(&mut idle, "/hello").await.starts_with("HTTP/1.1 200"));
    let mut busy = TcpStream::connect(address).await.unwrap();
    busy.write_all(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    eventually("it is begun", PATIENCE, async || begun.load(Ordering::SeqCst) == 2).await;
    lifecycle.soft.cancel();
    assert_eq!(lifecycle.finished(PATIENCE).await, Ended::Clean);
    assert!(read_answer(&mut busy).await.ends_with("finished"));
    assert!(is_closed_by_peer(&mut idle).await);
    assert!(TcpStream::connect(address).await.is_err());
}

#[tokio::test]
async fn what_does_not_end_in_its_grace_is_cut_off_and_the_exit_code_says_so() {
    let (address, lifecycle, begun) = start_counting(config()).await;
    let mut stuck = TcpStream::connect(address).await.unwrap();
    stuck.write_all(b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nhalf").await.unwrap();
    eventually("it is begun", PATIENCE, async || begun.load(Ordering::SeqCst) == 1).await;
    lifecycle.soft.cancel();
    assert_eq!(lifecycle.finished(SHORT).await, Ended::Cut);
    assert!(is_closed_by_peer(&mut stuck).await);
}

#[tokio::test]
async fn an_essential_task_that_dies_takes_the_process_down_loudly() {
    let lifecycle = Lifecycle::default();
    lifecycle.spawn_essential("doomed", async { panic!("on purpose") });
    assert_eq!(lifecycle.finished(PATIENCE).await, Ended::Failed);
}
