//! Posting the simulated players' events the way a game's backend would: batches, a server key, and an unchanged
//! batch again when there was no answer.

use std::time::Duration;

use axum::body::Bytes;
use axum::http::{Method, Request, header};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use secrecy::{ExposeSecret, SecretString};
use tokio_util::sync::CancellationToken;

use super::players::{Players, SimulatedEvent};
use crate::domain::clock::Clock;

/// How often a batch is sent at most.
const TICK: Duration = Duration::from_millis(200);
/// Events of one batch.
const MAX_BATCH: usize = 100;
/// Longest wait for an answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// Pause before a batch is sent again.
const AGAIN: Duration = Duration::from_secs(1);

/// Where and how fast to play.
#[derive(Debug, Clone)]
pub struct Play {
    /// `http://host:port` of ingest.
    pub ingest: String,
    /// A server key of the game: a studio's backend has no limit per address.
    pub server_key: SecretString,
    /// How many play.
    pub players: usize,
    /// Events per second in all.
    pub rate: f64,
    /// Which game; the same gives the same.
    pub seed: u64,
}

/// What became of the events.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Played {
    /// Sent in batches that were answered.
    pub sent: u64,
    /// Of those, accepted.
    pub accepted: u64,
    /// Batches that had to be sent again.
    pub again: u64,
}

#[derive(serde::Deserialize)]
struct Receipt {
    accepted: u64,
}

/// Plays until `stop`.
pub async fn play(play: Play, clock: Clock, stop: CancellationToken) -> Played {
    let client: Client<HttpConnector, Full<Bytes>> = Client::builder(TokioExecutor::new()).build_http();
    let mut players = Players::new(play.players, play.seed);
    let mut played = Played::default();
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut due = 0.0;
    loop {
        tokio::select! {
            () = stop.cancelled() => return played,
            _ = ticks.tick() => {}
        }
        due += play.rate * TICK.as_secs_f64();
        while due >= 1.0 && !stop.is_cancelled() {
            let size = (due as usize).min(MAX_BATCH);
            due -= size as f64;
            let batch: Vec<_> = (0..size).map(|_| players.next_event(clock.now())).collect();
            deliver(&client, &play, &batch, &stop, &mut played).await;
        }
    }
}

/// Sends a batch, unchanged, until it is answered for good.
async fn deliver(
    client: &Client<HttpConnector, Full<Bytes>>,
    play: &Play,
    batch: &[SimulatedEvent],
    stop: &CancellationToken,
    played: &mut Played,
) {
    let Ok(body) = serde_json::to_vec(batch).map(Bytes::from) else { return };
    loop {
        match post(client, play, body.clone()).await {
            Ok((status, receipt)) if status < 500 && status != 429 => {
                played.sent += batch.len() as u64;
                played.accepted += receipt.map_or(0, |r| r.accepted);
                if status >= 400 {
                    tracing::warn!(status, "the simulated game's batch was refused");
                }
                return;
            }
            Ok((status, _)) => tracing::debug!(status, "sending the simulated game's batch again"),
            Err(error) => tracing::debug!(error, "sending the simulated game's batch again"),
        }
        played.again += 1;
        if tokio::time::timeout(AGAIN, stop.cancelled()).await.is_ok() {
            return;
        }
    }
}

async fn post(
    client: &Client<HttpConnector, Full<Bytes>>,
    play: &Play,
    body: Bytes,
) -> Result<(u16, Option<Receipt>), String> {
    let request = Request::builder()
        .method(Method::POST)
        .uri(format!("{}/v1/events", play.ingest))
        .header(header::CONTENT_TYPE, "application/json")
        .header(header::AUTHORIZATION, format!("Bearer {}", play.server_key.expose_secret()))
        .body(Full::new(body))
        .map_err(|e| e.to_string())?;
    let exchange = async {
        let response = client.request(request).await.map_err(|e| e.to_string())?;
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.map_err(|e| e.to_string())?.to_bytes();
        Ok((status, serde_json::from_slice(&body).ok()))
    };
    tokio::time::timeout(PATIENCE, exchange).await.map_err(|_| "no answer in time".to_owned())?
}
