//! Thousands of clients that are slow or silent, against the real process: they cost a bounded number of connections
//! for a bounded time, and a good client is answered all the while.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use scoreline::bench::load::Connection;
use scoreline::bench::rig::Role;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

use super::measure::metric;
use crate::support::system::{PATIENCE, System, system};
use crate::support::{eventually, lasts};

/// Most connections of the listener, and of one address.
const MOST: usize = 3_500;
const MOST_PER_ADDRESS: usize = 1_100;

/// Connects from an address of its own: all of 127.0.0.0/8 is here.
async fn connect(from: u8, to: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_reuseaddr(true).unwrap();
    socket.bind((Ipv4Addr::new(127, 0, 1, from), 0).into()).unwrap();
    socket.connect(to).await.unwrap()
}

/// Opens `count` connections that send `bytes` and then nothing.
async fn many(count: usize, from: u8, to: SocketAddr, bytes: &[u8]) -> Vec<TcpStream> {
    let mut open = Vec::with_capacity(count);
    for _ in 0..count {
        let mut stream = connect(from, to).await;
        stream.write_all(bytes).await.unwrap();
        open.push(stream);
    }
    open
}

/// What is said to a connection before it is closed.
async fn told(mut stream: TcpStream) -> String {
    let mut answer = Vec::new();
    let read = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await;
    // A reset closes it too.
    let _ = read.expect("it is not waited for without end");
    String::from_utf8_lossy(&answer).into_owned()
}

/// An ingest that gives every slow client this long, and a server's event for it.
async fn ingest(system: &mut System, seconds: u32) -> (SocketAddr, SocketAddr, String) {
    let timeouts = ["HTTP_HEADER_TIMEOUT_SECONDS", "HTTP_BODY_TIMEOUT_SECONDS", "HTTP_IDLE_SECONDS"];
    system.rig.environment.extend(timeouts.map(|name| (name.to_owned(), seconds.to_string())));
    system.rig.environment.extend([
        ("HTTP_MAX_CONNECTIONS".to_owned(), MOST.to_string()),
        ("HTTP_MAX_CONNECTIONS_PER_ADDRESS".to_owned(), MOST_PER_ADDRESS.to_string()),
    ]);
    system.rig.start(Role::Ingest).await.unwrap();
    let event = json!({"type": "t", "player_id": "p"}).to_string();
    (system.rig.ingest, system.rig.operations("ingest").unwrap(), event)
}

const HEAD: &str = "POST /v1/events HTTP/1.1\r\nhost: x\r\n";

/// As many clients as three addresses may be: slow within a header, slow within a body, and silent.
async fn crowds(system: &System, address: SocketAddr) -> Vec<Vec<TcpStream>> {
    let body = format!("{HEAD}authorization: Bearer {}\r\ncontent-length: 1000\r\n\r\n[", system.client_key);
    vec![
        many(MOST_PER_ADDRESS, 1, address, format!("{HEAD}x-slow: ").as_bytes()).await,
        many(MOST_PER_ADDRESS, 2, address, body.as_bytes()).await,
        many(MOST_PER_ADDRESS, 3, address, b"").await,
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousands_of_slow_and_silent_clients_are_bounded_and_a_good_one_is_answered() {
    let mut system = system().await;
    // None of them is given up while this test counts them.
    let (address, operations, event) = ingest(&mut system, 120).await;
    // One who plays all the while: a crowded listener closes connections that are idle for a second.
    let answered = Arc::new(AtomicU64::new(0));
    let (count, key, body) = (answered.clone(), system.server_key.clone(), event.clone());
    let good = tokio::spawn(async move {
        let mut good = Connection::open(address).await.unwrap();
        loop {
            assert_eq!(good.post("/v1/events", &key, body.as_bytes()).await.unwrap(), 202);
            count.fetch_add(1, Ordering::SeqCst);
            lasts(Duration::from_millis(50)).await; // a client that posts now and then, not a flood
        }
    });
    let is_answered = async || {
        let before = answered.load(Ordering::SeqCst);
        eventually("the good client is answered", PATIENCE, async || {
            assert!(!good.is_finished(), "the good client was not answered");
            answered.load(Ordering::SeqCst) >= before + 2
        })
        .await;
    };
    is_answered().await;

    let mut crowds = crowds(&system, address).await;
    // The address has its most, others have not.
    let refused = told(connect(1, address).await).await;
    assert!(refused.starts_with("HTTP/1.1 503") && refused.contains("too_many_connections"), "{refused}");
    is_answered().await;
    let mut fresh = Connection::open(address).await.unwrap();
    assert_eq!(fresh.post("/v1/events", &system.server_key, event.as_bytes()).await.unwrap(), 202);
    // So has the listener, once another address has come with enough; who is in stays in.
    let rest = MOST - 3 * MOST_PER_ADDRESS;
    crowds.push(many(rest, 4, address, format!("{HEAD}x-slow: ").as_bytes()).await);
    let refused = told(connect(5, address).await).await;
    assert!(refused.starts_with("HTTP/1.1 503"), "{refused}");
    is_answered().await;
    let connections = metric(operations, "scoreline_http_connections{").await;
    // The look itself is a connection of the other listener.
    assert!(connections <= (MOST + 1) as f64, "{connections}");
    for reason in ["address", "listener"] {
        let name = format!("scoreline_http_connections_refused_total{{role=\"ingest\",reason=\"{reason}\"");
        assert!(metric(operations, &name).await >= 1.0, "{reason}");
    }
    // Who goes makes room.
    good.abort();
    drop(crowds);
    eventually("their connections are given back", PATIENCE, || async {
        metric(operations, "scoreline_http_connections{").await <= 3.0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_and_silent_clients_are_told_to_go_without_a_hand_on_it() {
    let mut system = system().await;
    let (address, operations, event) = ingest(&mut system, 3).await;
    let (mut stalled, mut limited) = (0, 0);
    for stream in crowds(&system, address).await.into_iter().flatten() {
        let answer = told(stream).await;
        stalled += usize::from(answer.starts_with("HTTP/1.1 408"));
        limited += usize::from(answer.starts_with("HTTP/1.1 429"));
    }
    // They count against their address's requests like all others.
    assert!(stalled >= 200 && stalled + limited == MOST_PER_ADDRESS, "{stalled} were told so, {limited} were limited");
    eventually("their connections are given back", PATIENCE, || async {
        metric(operations, "scoreline_http_connections{").await <= 2.0
    })
    .await;
    let mut again = Connection::open(address).await.unwrap();
    assert_eq!(again.post("/v1/events", &system.server_key, event.as_bytes()).await.unwrap(), 202);
    assert!(system.rig.stop("ingest").await.unwrap().success());
}

#[tokio::test]
async fn a_process_takes_as_many_open_files_as_it_may_have_and_leaves_no_core() {
    let mut system = system().await;
    system.rig.start(Role::Ingest).await.unwrap();
    let pid = system.rig.pid("ingest").unwrap();
    let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    let limit = |name: &str| -> Vec<String> {
        let line = limits.lines().find(|line| line.starts_with(name)).unwrap();
        line[26..].split_whitespace().take(2).map(str::to_owned).collect()
    };
    let files = limit("Max open files");
    assert_eq!(files[0], files[1]);
    assert_eq!(limit("Max core file size"), ["0", "0"]);
}
