//! One score on an idle system: how long until it is answered, and until the api shows it.

use std::time::Duration;

use tokio::time::Instant;

use super::load::{Connection, Target, new_histogram};
use super::report::Figure;
use super::{BenchError, Options};
use crate::domain::clock::Clock;

/// How long a score may take to show before the run gives up.
const GIVE_UP: Duration = Duration::from_secs(10);

/// Posts one score at a time, each for a new player, and asks the api for its standing until it is there.
///
/// # Errors
/// [`BenchError`].
pub async fn run(target: &Target, api: std::net::SocketAddr, options: &Options) -> Result<Vec<Figure>, BenchError> {
    let mut ingest = Connection::open(target.address).await.map_err(BenchError::Load)?;
    let mut reader = Connection::open(api).await.map_err(BenchError::Load)?;
    let (mut answered, mut visible) = (new_histogram(), new_histogram());
    let clock = Clock::system();
    for sample in 0..options.samples {
        let player = format!("latency-{}-{sample}", std::process::id());
        let body = format!(
            "[{{\"event_id\":\"{}\",\"type\":\"game_ended\",\"player_id\":\"{player}\",\"occurred_at\":\"{}\",\
              \"payload\":{{\"score\":{sample}}}}}]",
            uuid::Uuid::new_v4(),
            clock.now()
        );
        let sent = Instant::now();
        let status = ingest.post("/v1/events", &target.key, body.as_bytes()).await.map_err(BenchError::Load)?;
        if status != 202 {
            return Err(BenchError::Refused(1));
        }
        let acknowledged = Instant::now();
        answered.saturating_record((acknowledged - sent).as_micros() as u64);
        let path = format!("/v1/leaderboards/global/entries/{player}");
        loop {
            let (status, _) = reader.get(&path, &target.key).await.map_err(BenchError::Load)?;
            if status == 200 {
                break;
            }
            if acknowledged.elapsed() > GIVE_UP {
                return Err(BenchError::NotSettled("a score is on the board", GIVE_UP));
            }
            tokio::time::sleep(Duration::from_micros(500)).await;
        }
        visible.saturating_record(acknowledged.elapsed().as_micros() as u64);
        // The system is idle again before the next one.
        tokio::time::sleep(Duration::from_millis(120)).await;
    }
    let millis = |h: &hdrhistogram::Histogram<u64>, q: f64| vec![h.value_at_quantile(q) as f64 / 1_000.0];
    Ok(vec![
        Figure::new("idle", "answer p50", "ms", millis(&answered, 0.5)).with_target("≤ 1"),
        Figure::new("idle", "on the board after the answer, p50", "ms", millis(&visible, 0.5)).with_target("≤ 15"),
        Figure::new("idle", "on the board after the answer, p99", "ms", millis(&visible, 0.99)).with_target("≤ 50"),
    ])
}
