//! A game that behaves badly beside the one that must not notice: events that Postgres refuses, bodies that are no
//! batches, half a request, boards made and deleted all the time.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use uuid::Uuid;

use super::ChaosError;
use super::command_line::CommandLine;
use super::world::{NUISANCE, REFUSED_TYPE, World};
use crate::bench::load::Connection;
use crate::domain::clock::Clock;

/// How long it waits for an answer.
const PATIENCE: Duration = Duration::from_secs(3);
/// Most boards that it has at a time.
const BOARDS: u32 = 4;
/// Most remarks that are kept.
const MAX_REMARKS: usize = 10;

/// Misbehaves until it is stopped.
#[derive(Debug)]
pub struct Nuisance {
    stop: Arc<AtomicBool>,
    tasks: [JoinHandle<Vec<String>>; 2],
}

struct Bad {
    ingest: SocketAddr,
    key: String,
    clock: Clock,
    random: StdRng,
}

impl Nuisance {
    /// Begins.
    ///
    /// # Errors
    /// The program's folder is not known.
    pub fn start(world: &World, seed: u64) -> Result<Self, ChaosError> {
        let stop = Arc::<AtomicBool>::default();
        let random = StdRng::seed_from_u64(seed ^ 0xbad);
        let (ingest, key) = (world.ingest(), world.nuisance_key.clone());
        let bad = Bad { ingest, key, clock: world.scenario.clock.clone(), random };
        let command = CommandLine::of(&world.rig.services, &world.scenario)?;
        let file = world.stack.home().join("nuisance.json").display().to_string();
        let tasks = [
            tokio::spawn(send(bad, Arc::clone(&stop))),
            tokio::spawn(churn(command, file, StdRng::seed_from_u64(seed ^ 0xc4u64), Arc::clone(&stop))),
        ];
        Ok(Self { stop, tasks })
    }

    /// The end of it: what even such a game should not be answered.
    pub async fn stop(self) -> Vec<String> {
        self.stop.store(true, Ordering::Relaxed);
        let mut wrong = Vec::new();
        for task in self.tasks {
            wrong.extend(task.await.unwrap_or_else(|error| vec![format!("the nuisance died: {error}")]));
        }
        wrong
    }
}

async fn send(mut bad: Bad, stop: Arc<AtomicBool>) -> Vec<String> {
    let mut wrong = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let answer = match bad.random.random_range(0..8) {
            0 => bad.half_a_request().await,
            1 => bad.post(b"[{\"event_id\": 1, {{{").await,
            choice => {
                let batch = bad.batch(choice == 2);
                bad.post(batch.to_string().as_bytes()).await
            }
        };
        if let Some((status, answer)) = answer.filter(|(status, _)| *status >= 500 && *status != 503)
            && wrong.len() < MAX_REMARKS
        {
            wrong.push(format!("a game that behaves badly was answered {status}: {answer}"));
        }
        tokio::time::sleep(Duration::from_millis(bad.random.random_range(50..800))).await;
    }
    wrong
}

impl Bad {
    /// Good events, and, if it is to be, one among them that Postgres refuses.
    fn batch(&mut self, with_refused: bool) -> Value {
        let at = self.clock.now().to_string();
        let refused = self.random.random_range(0..10);
        let event = |n: u32| {
            let kind = if with_refused && n == refused { REFUSED_TYPE } else { "game_ended" };
            json!({"event_id": Uuid::new_v4(), "type": kind, "player_id": "n", "occurred_at": at,
                   "payload": {"score": n}})
        };
        Value::Array((0..10).map(event).collect())
    }

    async fn post(&self, body: &[u8]) -> Option<(u16, String)> {
        let exchange = async {
            let mut connection = Connection::open(self.ingest).await.ok()?;
            let (status, answer) = connection.exchange("/v1/events", &self.key, body).await.ok()?;
            Some((status, String::from_utf8_lossy(answer).into_owned()))
        };
        tokio::time::timeout(PATIENCE, exchange).await.ok().flatten()
    }

    /// Announces a body, sends some of it and hangs up.
    async fn half_a_request(&self) -> Option<(u16, String)> {
        let mut stream = TcpStream::connect(self.ingest).await.ok()?;
        let head = format!(
            "POST /v1/events HTTP/1.1\r\nhost: chaos\r\nauthorization: Bearer {}\r\n\
             content-type: application/json\r\ncontent-length: 1000\r\n\r\n[{{",
            self.key
        );
        stream.write_all(head.as_bytes()).await.ok()?;
        None
    }
}

/// Makes, edits and deletes boards.
async fn churn(command: CommandLine, file: String, mut random: StdRng, stop: Arc<AtomicBool>) -> Vec<String> {
    while !stop.load(Ordering::Relaxed) {
        let slug = format!("n-{}", random.random_range(0..BOARDS));
        let operator = ["best", "incr", "set"][random.random_range(0..3)];
        let reset = ["never", "daily", "hourly"][random.random_range(0..3)];
        let board = json!({"slug": slug, "event_type": "game_ended", "score": "/score", "operator": operator,
                           "reset": reset});
        let arguments: Vec<&str> = match random.random_range(0..4) {
            0 => vec!["leaderboard", "delete", &slug, "--game", NUISANCE, "--json"],
            _ if std::fs::write(&file, board.to_string()).is_ok() => {
                vec!["leaderboard", "apply", &file, "--game", NUISANCE, "--json"]
            }
            _ => vec!["recompute", "--game", NUISANCE, "--leaderboard", &slug, "--no-wait", "--json"],
        };
        // Refused or not is its own affair.
        let _ = tokio::time::timeout(PATIENCE, command.run(&arguments)).await;
        tokio::time::sleep(Duration::from_millis(random.random_range(300..2_500))).await;
    }
    Vec::new()
}
