//! What tests stand on: private databases, private Redis servers, and waiting for conditions.

#![allow(dead_code, reason = "each test file uses its own part of the support")]

pub mod http;
pub mod postgres;
pub mod postgres_server;
pub mod redis;
pub mod system;

use std::time::{Duration, Instant};

/// Waits until `condition` holds, polling; fails the test with `what` after `limit`.
pub async fn eventually<F, Fut>(what: &str, limit: Duration, mut condition: F)
where
    F: FnMut() -> Fut,
    Fut: Future<Output = bool>,
{
    let started = Instant::now();
    while !condition().await {
        assert!(started.elapsed() < limit, "not within {limit:?}: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A free loopback port. Another process may take it before its user does, so users retry.
pub fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}
