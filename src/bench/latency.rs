//! How long one score takes: until it is answered, and until the api shows it.

use std::net::SocketAddr;
use std::time::Duration;

use hdrhistogram::Histogram;
use tokio::time::Instant;

use super::load::{Connection, Target, new_histogram};
use super::report::Figure;
use super::{BenchError, Options};
use crate::runtime::clock;

/// How long a score may take to show before the run gives up.
const GIVE_UP: Duration = Duration::from_secs(10);
/// Pause between samples on an idle system, so that it is idle again.
const IDLE_PAUSE: Duration = Duration::from_millis(120);
/// Samples under load begin this far apart, by as many probers as may be waiting at once.
const LOADED_PACE: Duration = Duration::from_millis(200);
const LOADED_PROBERS: u32 = 10;

/// Posts one score at a time, each for a new player, and asks the api for its standing until it is there.
struct Prober {
    ingest: Connection,
    reader: Connection,
    key: String,
    /// How often the api is asked: the resolution of what is measured, and load of its own.
    look: Duration,
    samples: u32,
    /// Microseconds from the post to the answer.
    answered: Histogram<u64>,
    /// Microseconds from the answer, or from the intended send, until the score showed.
    visible: Histogram<u64>,
}

impl Prober {
    async fn new(target: &Target, api: SocketAddr, look: Duration) -> Result<Self, BenchError> {
        Ok(Self {
            ingest: Connection::open(target.address).await.map_err(BenchError::Load)?,
            reader: Connection::open(api).await.map_err(BenchError::Load)?,
            key: target.key.clone(),
            look,
            samples: 0,
            answered: new_histogram(),
            visible: new_histogram(),
        })
    }

    /// `intended`: when it should have been sent, from which its way to the board counts; `None`: from its answer.
    async fn sample(&mut self, intended: Option<Instant>) -> Result<(), BenchError> {
        let id = uuid::Uuid::new_v4();
        let player = format!("probe-{id}");
        let body = format!(
            "[{{\"event_id\":\"{id}\",\"type\":\"game_ended\",\"player_id\":\"{player}\",\"occurred_at\":\"{}\",\
              \"payload\":{{\"score\":{}}}}}]",
            clock::system().now(),
            self.samples
        );
        self.samples += 1;
        let sent = Instant::now();
        let status = self.ingest.post("/v1/events", &self.key, body.as_bytes()).await.map_err(BenchError::Load)?;
        if status != 202 {
            return Err(BenchError::Refused(1));
        }
        let acknowledged = Instant::now();
        self.answered.saturating_record((acknowledged - sent).as_micros() as u64);
        let path = format!("/v1/leaderboards/global/entries/{player}");
        while self.reader.get(&path, &self.key).await.map_err(BenchError::Load)?.0 != 200 {
            if acknowledged.elapsed() > GIVE_UP {
                return Err(BenchError::NotSettled("a score is on the board", GIVE_UP));
            }
            tokio::time::sleep(self.look).await;
        }
        let since = intended.unwrap_or(acknowledged);
        self.visible.saturating_record(since.elapsed().as_micros() as u64);
        Ok(())
    }
}

/// Latencies of an idle system.
///
/// # Errors
/// [`BenchError`].
pub async fn run(target: &Target, api: SocketAddr, options: &Options) -> Result<Vec<Figure>, BenchError> {
    let mut prober = Prober::new(target, api, Duration::from_micros(500)).await?;
    for _ in 0..options.samples {
        prober.sample(None).await?;
        tokio::time::sleep(IDLE_PAUSE).await;
    }
    let millis = |h: &Histogram<u64>, q: f64| vec![h.value_at_quantile(q) as f64 / 1_000.0];
    let (answered, visible) = (&prober.answered, &prober.visible);
    Ok(vec![
        Figure::new("idle", "answer p50", "ms", millis(answered, 0.5)).with_target("≤ 1"),
        Figure::new("idle", "on the board after the answer, p50", "ms", millis(visible, 0.5)).with_target("≤ 15"),
        Figure::new("idle", "on the board after the answer, p99", "ms", millis(visible, 0.99)).with_target("≤ 50"),
    ])
}

/// Microseconds from the intended send until a score shows, five a second beside other load for a time. Whoever is
/// late is late from the moment at which the sample was due.
///
/// # Errors
/// [`BenchError`].
pub async fn probe_until(target: Target, api: SocketAddr, time: Duration) -> Result<Histogram<u64>, BenchError> {
    let started = Instant::now();
    let probers: Vec<_> = (0..LOADED_PROBERS)
        .map(|n| {
            let target = target.clone();
            tokio::spawn(async move {
                let mut prober = Prober::new(&target, api, Duration::from_millis(2)).await?;
                let mut due = started + LOADED_PACE * n;
                while due < started + time {
                    tokio::time::sleep_until(due).await;
                    prober.sample(Some(due)).await?;
                    due += LOADED_PACE * LOADED_PROBERS;
                }
                Ok::<_, BenchError>(prober.visible)
            })
        })
        .collect();
    let mut visible = new_histogram();
    for prober in probers {
        let part = prober.await.map_err(|e| BenchError::Load(std::io::Error::other(e)))??;
        // Both have the same bounds, so adding cannot fail.
        let _ = visible.add(&part);
    }
    Ok(visible)
}
