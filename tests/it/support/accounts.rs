//! Clients on a bad network that keep account of what they sent and what they were told.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use scoreline::bench::load::Connection;
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use uuid::Uuid;

/// How long a client waits for an answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// Players of the game.
const PLAYERS: u32 = 500;
static NEXT_SEED: AtomicU64 = AtomicU64::new(0);

/// What one client sent and what it was told.
#[derive(Default)]
pub struct Account {
    pub sent: HashSet<Uuid>,
    pub acknowledged: HashSet<Uuid>,
    pub unanswered: u32,
}

/// A client: sends some batches twice, gives up on some answers and sends again, unchanged, until it is acknowledged.
pub struct Client {
    address: SocketAddr,
    key: String,
    events: usize,
    random: StdRng,
    connection: Option<Connection>,
    acknowledged: Arc<AtomicUsize>,
    refused: Arc<AtomicUsize>,
    account: Account,
}

/// A batch: good events, now and then one of them again and one that must be rejected.
struct Batch {
    ids: Vec<Uuid>,
    body: String,
    duplicates: u64,
    rejected: u64,
}

impl Client {
    /// `events`: good ones in a batch.
    pub fn new(address: SocketAddr, key: &str, events: usize) -> Self {
        // No two clients send the same events.
        let seed = NEXT_SEED.fetch_add(1, Ordering::Relaxed);
        Self {
            address,
            key: key.to_owned(),
            events,
            random: StdRng::seed_from_u64(seed),
            connection: None,
            acknowledged: Arc::default(),
            refused: Arc::default(),
            account: Account::default(),
        }
    }

    fn batch(&mut self) -> Batch {
        let random = &mut self.random;
        let ids: Vec<Uuid> = (0..self.events).map(|_| Uuid::from_u128(random.random())).collect();
        let now = scoreline::domain::clock::Clock::system().now().to_string();
        let event = |id: &Uuid| {
            let player = format!("p-{}", random.random_range(0..PLAYERS));
            let kind = if random.random_bool(0.8) { "game_ended" } else { "level_progress" };
            json!({"event_id": id, "type": kind, "player_id": player, "occurred_at": now,
                   "payload": {"score": random.random_range(0..1_000)}})
        };
        let mut events: Vec<Value> = ids.iter().map(event).collect();
        let (mut duplicates, mut rejected) = (0, 0);
        if self.random.random_bool(0.1) {
            events.push(events[0].clone());
            duplicates = 1;
        }
        if self.random.random_bool(0.1) {
            events.push(json!({"event_id": Uuid::new_v4(), "type": "game_ended", "player_id": "null"}));
            rejected = 1;
        }
        Batch { ids, body: Value::Array(events).to_string(), duplicates, rejected }
    }

    /// Sends a new batch until it is acknowledged, sometimes twice.
    pub async fn send(&mut self) {
        let batch = self.batch();
        self.account.sent.extend(&batch.ids);
        let mut copies = 1 + u32::from(self.random.random_bool(0.2));
        while copies > 0 {
            if self.attempt(&batch).await {
                self.account.acknowledged.extend(&batch.ids);
                copies -= 1;
            } else {
                super::lasts(Duration::from_millis(20)).await;
            }
        }
        self.acknowledged.fetch_add(batch.ids.len(), Ordering::Relaxed);
    }

    /// Sends a batch once; whether it was acknowledged.
    async fn attempt(&mut self, batch: &Batch) -> bool {
        if self.connection.is_none() {
            self.connection = Connection::open(self.address).await.ok();
        }
        let Some(open) = self.connection.as_mut() else { return false };
        let answer = open.exchange("/v1/events", &self.key, batch.body.as_bytes());
        match tokio::time::timeout(PATIENCE, answer).await {
            Ok(Ok((202, receipt))) => {
                check_receipt(batch, receipt);
                true
            }
            Ok(Ok((503, _))) => {
                self.refused.fetch_add(1, Ordering::Relaxed);
                false
            }
            Ok(Ok((status, body))) => {
                panic!("a good batch was answered {status}: {}", String::from_utf8_lossy(body))
            }
            // No answer: the batch may or may not be queued.
            Ok(Err(_)) | Err(_) => {
                self.account.unanswered += 1;
                self.connection = None;
                false
            }
        }
    }

    /// The end of it.
    pub fn account(self) -> Account {
        self.account
    }
}

/// `received = accepted + duplicate + rejected + retry`, and each is what was sent.
fn check_receipt(batch: &Batch, receipt: &[u8]) {
    let receipt: Value = serde_json::from_slice(receipt).unwrap();
    let count = |name: &str| receipt[name].as_u64().unwrap_or_default();
    let told = (count("accepted"), count("duplicate"), count("rejected"), count("retry"));
    assert_eq!(told, (batch.ids.len() as u64, batch.duplicates, batch.rejected, 0), "{receipt}");
    assert_eq!(count("received"), told.0 + told.1 + told.2 + told.3, "{receipt}");
}

/// Clients that send until they are stopped.
pub struct Load {
    stop: Arc<AtomicBool>,
    clients: Vec<JoinHandle<Account>>,
    acknowledged: Arc<AtomicUsize>,
    refused: Arc<AtomicUsize>,
}

impl Load {
    /// Starts `clients`, which send `events` good events a batch.
    pub fn start(address: SocketAddr, key: &str, clients: u64, events: usize) -> Self {
        let (stop, acknowledged, refused) = (Arc::<AtomicBool>::default(), Arc::default(), Arc::default());
        let run = |_| {
            let mut client = Client::new(address, key, events);
            client.acknowledged = Arc::clone(&acknowledged);
            client.refused = Arc::clone(&refused);
            let stop = Arc::clone(&stop);
            tokio::spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    client.send().await;
                    // Leaves the system time for everything else.
                    super::lasts(Duration::from_millis(5)).await;
                }
                client.account()
            })
        };
        let clients = (0..clients).map(run).collect();
        Self { stop, clients, acknowledged, refused }
    }

    /// Events acknowledged so far.
    pub fn acknowledged(&self) -> usize {
        self.acknowledged.load(Ordering::Relaxed)
    }

    /// Batches answered `503` so far.
    pub fn refused(&self) -> usize {
        self.refused.load(Ordering::Relaxed)
    }

    /// Lets every client finish its batch.
    pub async fn stop(self) -> Vec<Account> {
        self.stop.store(true, Ordering::Relaxed);
        let mut accounts = Vec::new();
        for client in self.clients {
            accounts.push(client.await.unwrap());
        }
        accounts
    }
}
