//! A load generator on raw connections: cheap enough to share a machine with what it measures.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hdrhistogram::Histogram;
use rand::SeedableRng;
use rand::rngs::SmallRng;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::batch::{self, Mix};
use crate::runtime::clock;

/// One keep-alive HTTP/1.1 connection.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    request: Vec<u8>,
    response: Vec<u8>,
}

impl Connection {
    /// Connects.
    ///
    /// # Errors
    /// Whatever the operating system says.
    pub async fn open(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, request: Vec::with_capacity(16 * 1024), response: vec![0; 256 * 1024] })
    }

    /// Posts a JSON body; returns the status.
    ///
    /// # Errors
    /// The connection broke, or the answer is no HTTP.
    pub async fn post(&mut self, path: &str, key: &str, body: &[u8]) -> io::Result<u16> {
        self.exchange(path, key, body).await.map(|(status, _)| status)
    }

    /// Posts a JSON body; returns the status and the body of the answer.
    ///
    /// # Errors
    /// The connection broke, or the answer is no HTTP.
    pub async fn exchange(&mut self, path: &str, key: &str, body: &[u8]) -> io::Result<(u16, &[u8])> {
        self.request.clear();
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: bench\r\nauthorization: Bearer {key}\r\ncontent-type: application/json\r\n\
             content-length: {}\r\n\r\n",
            body.len()
        );
        self.request.extend_from_slice(head.as_bytes());
        self.request.extend_from_slice(body);
        self.stream.write_all(&self.request).await?;
        let (status, body) = self.read_response().await?;
        Ok((status, &self.response[body]))
    }

    /// Gets a path; returns the status and the body.
    ///
    /// # Errors
    /// The connection broke, or the answer is no HTTP.
    pub async fn get(&mut self, path: &str, key: &str) -> io::Result<(u16, &[u8])> {
        let head = format!("GET {path} HTTP/1.1\r\nhost: bench\r\nauthorization: Bearer {key}\r\n\r\n");
        self.stream.write_all(head.as_bytes()).await?;
        let (status, body) = self.read_response().await?;
        Ok((status, &self.response[body]))
    }

    async fn read_response(&mut self) -> io::Result<(u16, std::ops::Range<usize>)> {
        let bad = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
        let mut filled = 0;
        loop {
            let read = self.stream.read(&mut self.response[filled..]).await?;
            if read == 0 {
                return Err(bad("the connection was closed, or the answer is too long"));
            }
            filled += read;
            let Some(end) = find(&self.response[..filled], b"\r\n\r\n") else { continue };
            let head = std::str::from_utf8(&self.response[..end]).map_err(|_| bad("the head is no text"))?;
            let status = head.get(9..12).and_then(|s| s.parse().ok()).ok_or_else(|| bad("no status"))?;
            let length: usize = head
                .lines()
                .filter_map(|line| line.split_once(':'))
                .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
                .and_then(|(_, value)| value.trim().parse().ok())
                .unwrap_or(0);
            let body = end + 4..end + 4 + length;
            while filled < body.end {
                let read = self.stream.read(&mut self.response[filled..]).await?;
                if read == 0 {
                    return Err(bad("the body was cut short"));
                }
                filled += read;
            }
            return Ok((status, body));
        }
    }
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|w| w == needle)
}

/// Where and how to post.
#[derive(Debug, Clone)]
pub struct Target {
    /// Ingest.
    pub address: SocketAddr,
    /// A server key, so that the per-address limit does not apply.
    pub key: String,
    /// What batches hold.
    pub mix: Mix,
    /// Streams of random numbers that were used up. None is used twice: a score that was sent before would change
    /// nothing, so that a repeated round would measure a system at rest.
    pub streams: Arc<AtomicU64>,
}

/// What a run of posts came to.
#[derive(Debug)]
pub struct Posted {
    /// Events in batches that were answered `202`.
    pub accepted: u64,
    /// How many of them carry a score.
    pub scores: u64,
    /// Batches with another answer.
    pub refused: u64,
    /// From the first post to the last answer.
    pub wall: Duration,
    /// Microseconds from the (intended) send to the answer.
    pub latency: Histogram<u64>,
}

/// Posts `events` events as fast as `connections` connections are answered.
///
/// # Errors
/// A connection broke.
pub async fn flood(target: &Target, events: u64, connections: usize) -> io::Result<Posted> {
    let left = Arc::new(AtomicU64::new(events / target.mix.events as u64));
    run(target, connections, move |_| {
        let left = Arc::clone(&left);
        Box::new(move || {
            let taken = left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1));
            taken.is_ok().then(Instant::now)
        })
    })
    .await
}

/// Posts at a fixed rate of events a second for a time. Each connection has a schedule that does not wait for answers:
/// a batch's latency counts from the moment at which it should have been sent, however late the answer before it was.
///
/// # Errors
/// A connection broke.
pub async fn paced(target: &Target, events_per_second: f64, time: Duration, connections: usize) -> io::Result<Posted> {
    let started = Instant::now();
    let interval = connections as f64 * target.mix.events as f64 / events_per_second;
    let batches = (time.as_secs_f64() / interval) as u64;
    run(target, connections, move |connection| {
        let offset = interval * connection as f64 / connections as f64;
        let mut sent = 0u64;
        Box::new(move || {
            let at = started + Duration::from_secs_f64(offset + interval * sent as f64);
            sent += 1;
            (sent <= batches).then_some(at)
        })
    })
    .await
}

type Plan = Box<dyn FnMut() -> Option<Instant> + Send>;

async fn run(target: &Target, connections: usize, plan: impl Fn(usize) -> Plan) -> io::Result<Posted> {
    let first = target.streams.fetch_add(connections as u64, Ordering::Relaxed);
    let started = Instant::now();
    let tasks: Vec<_> =
        (0..connections).map(|c| tokio::spawn(post_by_plan(target.clone(), plan(c), first + c as u64))).collect();
    let mut total = Posted { accepted: 0, scores: 0, refused: 0, wall: Duration::ZERO, latency: new_histogram() };
    for task in tasks {
        let part = task.await.map_err(io::Error::other)??;
        total.accepted += part.accepted;
        total.scores += part.scores;
        total.refused += part.refused;
        // Both have the same bounds, so adding cannot fail.
        let _ = total.latency.add(&part.latency);
    }
    total.wall = started.elapsed();
    Ok(total)
}

/// Microseconds, up to a minute, to three digits.
pub fn new_histogram() -> Histogram<u64> {
    #[allow(clippy::expect_used, reason = "the bounds are constants within what the type takes")]
    Histogram::new_with_max(60_000_000, 3).expect("constant bounds")
}

async fn post_by_plan(target: Target, mut plan: Plan, seed: u64) -> io::Result<Posted> {
    let mut random = SmallRng::seed_from_u64(seed);
    let clock = clock::system();
    let mut connection = Connection::open(target.address).await?;
    let mut body = Vec::with_capacity(32 * 1024);
    let mut part = Posted { accepted: 0, scores: 0, refused: 0, wall: Duration::ZERO, latency: new_histogram() };
    while let Some(at) = plan() {
        tokio::time::sleep_until(at).await;
        let scores = batch::write(&mut body, &target.mix, clock.now(), &mut random);
        let status = connection.post("/v1/events", &target.key, &body).await?;
        if status == 202 {
            part.accepted += target.mix.events as u64;
            part.scores += scores;
        } else {
            part.refused += 1;
        }
        part.latency.saturating_record(at.elapsed().as_micros() as u64);
    }
    Ok(part)
}
