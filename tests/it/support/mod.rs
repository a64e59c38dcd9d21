//! What tests stand on: private databases, private Redis servers, and waiting for conditions.

#![allow(dead_code, reason = "each test file uses its own part of the support")]

pub mod gate;
pub mod http;
pub mod postgres;
pub mod postgres_server;
pub mod proxy;
pub mod redis;
pub mod switch;
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
        look_again().await;
    }
}

/// The pause between two looks at something that others do.
const LOOK: Duration = Duration::from_millis(5);

/// Waits a moment before a test looks again; whoever calls it looks for a condition.
pub async fn look_again() {
    tokio::time::sleep(LOOK).await;
}

/// As [`look_again`], where nothing can be awaited.
pub fn look_again_blocking() {
    std::thread::sleep(LOOK);
}

/// What takes this long by nature (an outage, a piece of work, a client that pauses) and is the test's matter: no test
/// waits with it for somebody to be ready.
pub async fn lasts(time: Duration) {
    tokio::time::sleep(time).await;
}

/// Gives what must not happen the time to happen: there is no condition to wait for. Too short a time can only
/// miss a defect; it never fails a sound product.
pub async fn nothing_happens_for(time: Duration) {
    tokio::time::sleep(time).await;
}

/// A loopback port for a server that this test starts, perhaps more than once.
pub fn reserved_port() -> scoreline::stack::ReservedPort {
    scoreline::stack::ReservedPort::new().unwrap()
}
