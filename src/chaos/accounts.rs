//! Clients on a bad network that keep account of what they sent and what they were told.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use uuid::Uuid;

use super::habits::Habits;
use super::sent::Sent;
use crate::bench::load::Connection;
use crate::domain::clock::Micros;

/// No two clients send the same events.
static NEXT_SEED: AtomicU64 = AtomicU64::new(0);
/// Pause before a batch is sent again.
const AGAIN: Duration = Duration::from_millis(20);
/// How long a client may take to finish its last batch.
const FINISHING: Duration = Duration::from_secs(60);
/// Longest wait of an impatient client: about what an answer takes.
const IMPATIENT_MICROS: u64 = 12_000;
/// Most remarks that one client keeps.
const MAX_REMARKS: usize = 10;

/// What one client sent and what it was told.
#[derive(Debug, Default)]
pub struct Account {
    /// Good events that it sent.
    pub sent: HashSet<Uuid>,
    /// What they said; nothing is known of one that is not in here.
    pub contents: HashMap<Uuid, Sent>,
    /// Those in batches that were answered `202`.
    pub acknowledged: HashSet<Uuid>,
    /// Requests.
    pub requests: u64,
    /// Requests that got no answer.
    pub unanswered: u64,
    /// Requests that were refused.
    pub refused: u64,
    /// Answers that no good batch should get.
    pub wrong: Vec<String>,
}

impl Account {
    /// Notes an event that is sent.
    pub fn note(&mut self, id: Uuid, sent: Sent) {
        self.sent.insert(id);
        self.contents.insert(id, sent);
    }

    /// Adds another client's.
    pub fn add(&mut self, other: Self) {
        self.sent.extend(other.sent);
        self.contents.extend(other.contents);
        self.acknowledged.extend(other.acknowledged);
        self.requests += other.requests;
        self.unanswered += other.unanswered;
        self.refused += other.refused;
        self.wrong.extend(other.wrong);
    }
}

/// What became of one request.
#[derive(Debug)]
enum Outcome {
    Acknowledged,
    Refused,
    Unanswered,
    Wrong(String),
}

/// A batch: good events, now and then one of them again and one that must be rejected.
#[derive(Debug)]
struct Batch {
    ids: Vec<Uuid>,
    body: String,
    duplicates: u64,
    rejected: u64,
}

/// Counters that a whole load shares.
#[derive(Debug, Default)]
struct Shared {
    acknowledged: AtomicUsize,
    refused: AtomicUsize,
    /// Whether clients give up on what they are sending.
    abandoned: AtomicBool,
}

/// A client: sends some batches twice, gives up on some answers and sends again, unchanged.
#[derive(Debug)]
pub struct Client {
    address: SocketAddr,
    key: String,
    habits: Habits,
    random: StdRng,
    lines: [Option<Connection>; 2],
    shared: Arc<Shared>,
    account: Account,
}

impl Client {
    /// A steady client; `events`: good ones in a batch.
    pub fn new(address: SocketAddr, key: &str, events: usize) -> Self {
        Self::with(address, key, Habits::steady(events), NEXT_SEED.fetch_add(1, Ordering::Relaxed))
    }

    /// A client whose choices come from `seed`.
    pub fn with(address: SocketAddr, key: &str, habits: Habits, seed: u64) -> Self {
        Self {
            address,
            key: key.to_owned(),
            habits,
            random: StdRng::seed_from_u64(seed),
            lines: [None, None],
            shared: Arc::default(),
            account: Account::default(),
        }
    }

    /// How long it waits for the next answer.
    fn patience(&mut self) -> Duration {
        if self.habits.impatient > 0.0 && self.random.random_bool(self.habits.impatient) {
            return Duration::from_micros(self.random.random_range(200..IMPATIENT_MICROS));
        }
        self.habits.patience
    }

    /// When an event happened: mostly now.
    fn moment(&mut self, now: Micros) -> Micros {
        let moments = &self.habits.moments;
        if moments.is_empty() || self.random.random_bool(0.7) {
            return now;
        }
        moments[self.random.random_range(0..moments.len())]
    }

    fn batch(&mut self) -> Batch {
        let length =
            if self.habits.any_length { self.random.random_range(1..=self.habits.events) } else { self.habits.events };
        let ids: Vec<Uuid> = (0..length).map(|_| Uuid::from_u128(self.random.random())).collect();
        let now = self.habits.clock.now();
        let mut events = Vec::with_capacity(length + 2);
        for id in &ids {
            let occurred_at = self.moment(now);
            let player = format!("p-{}", self.random.random_range(0..self.habits.players)).into();
            let kind = if self.random.random_bool(0.8) { "game_ended" } else { "level_progress" };
            let sent = Sent { kind, player, occurred_at, score: self.random.random_range(0..1_000) };
            events.push(sent.event(*id));
            self.account.note(*id, sent);
        }
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

    /// Sends a new batch, sometimes twice, until it is acknowledged or given up.
    pub async fn send(&mut self) {
        let batch = self.batch();
        let mut acknowledged = false;
        if self.habits.at_once > 0.0 && self.random.random_bool(self.habits.at_once) {
            acknowledged = self.send_twice_at_once(&batch).await;
        }
        let mut copies = if acknowledged { 0 } else { 1 + u32::from(self.random.random_bool(0.2)) };
        while copies > 0 && !self.shared.abandoned.load(Ordering::Relaxed) {
            let patience = self.patience();
            let [line, _] = &mut self.lines;
            let outcome = attempt(self.address, &self.key, patience, line, &batch).await;
            match self.note(outcome) {
                Some(true) => {
                    acknowledged = true;
                    copies -= 1;
                }
                Some(false) => {
                    if self.habits.gives_up > 0.0 && self.random.random_bool(self.habits.gives_up) {
                        break;
                    }
                    tokio::time::sleep(AGAIN).await;
                }
                None => break,
            }
        }
        if acknowledged {
            self.account.acknowledged.extend(&batch.ids);
            self.shared.acknowledged.fetch_add(batch.ids.len(), Ordering::Relaxed);
        }
    }

    /// Whether one of the two was acknowledged.
    async fn send_twice_at_once(&mut self, batch: &Batch) -> bool {
        let (address, patience) = (self.address, self.patience());
        let [first, second] = &mut self.lines;
        let (one, other) = tokio::join!(
            attempt(address, &self.key, patience, first, batch),
            attempt(address, &self.key, patience, second, batch),
        );
        let (one, other) = (self.note(one), self.note(other));
        one == Some(true) || other == Some(true)
    }

    /// Counts an outcome: acknowledged, not acknowledged, or (`None`) not worth repeating.
    fn note(&mut self, outcome: Outcome) -> Option<bool> {
        self.account.requests += 1;
        match outcome {
            Outcome::Acknowledged => Some(true),
            Outcome::Refused => {
                self.account.refused += 1;
                self.shared.refused.fetch_add(1, Ordering::Relaxed);
                Some(false)
            }
            Outcome::Unanswered => {
                self.account.unanswered += 1;
                Some(false)
            }
            Outcome::Wrong(what) => {
                if self.account.wrong.len() < MAX_REMARKS {
                    self.account.wrong.push(what);
                }
                None
            }
        }
    }

    /// The end of it.
    pub fn account(self) -> Account {
        self.account
    }
}

/// Sends a batch once.
async fn attempt(
    address: SocketAddr,
    key: &str,
    patience: Duration,
    line: &mut Option<Connection>,
    batch: &Batch,
) -> Outcome {
    let exchange = async {
        if line.is_none() {
            *line = Connection::open(address).await.ok();
        }
        let open = line.as_mut()?;
        let (status, answer) = open.exchange("/v1/events", key, batch.body.as_bytes()).await.ok()?;
        Some(judge(batch, status, answer))
    };
    // No answer: the batch may or may not be queued.
    let outcome = tokio::time::timeout(patience, exchange).await.ok().flatten().unwrap_or(Outcome::Unanswered);
    if !matches!(outcome, Outcome::Acknowledged) {
        *line = None;
    }
    outcome
}

fn judge(batch: &Batch, status: u16, answer: &[u8]) -> Outcome {
    let text = || String::from_utf8_lossy(answer);
    match status {
        202 => match check_receipt(batch, answer) {
            Ok(()) => Outcome::Acknowledged,
            Err(what) => Outcome::Wrong(what),
        },
        503 => Outcome::Refused,
        // Not the whole of it arrived.
        400 | 408 if text().contains("body_incomplete") || text().contains("body_timeout") => Outcome::Refused,
        status => Outcome::Wrong(format!("a good batch was answered {status}: {}", text())),
    }
}

/// `received = accepted + duplicate + rejected + retry`, and each is what was sent.
fn check_receipt(batch: &Batch, receipt: &[u8]) -> Result<(), String> {
    let receipt: Value = serde_json::from_slice(receipt).map_err(|e| format!("a receipt is no JSON: {e}"))?;
    let count = |name: &str| receipt[name].as_u64().unwrap_or_default();
    let told = (count("accepted"), count("duplicate"), count("rejected"), count("retry"));
    let right = told == (batch.ids.len() as u64, batch.duplicates, batch.rejected, 0)
        && count("received") == told.0 + told.1 + told.2 + told.3;
    if right { Ok(()) } else { Err(format!("a receipt is not what was sent: {receipt}")) }
}

/// Clients that send until they are stopped.
#[derive(Debug)]
pub struct Load {
    stop: Arc<AtomicBool>,
    clients: Vec<JoinHandle<Account>>,
    shared: Arc<Shared>,
}

impl Load {
    /// Starts `clients` steady ones, which send `events` good events a batch.
    pub fn start(address: SocketAddr, key: &str, clients: u64, events: usize) -> Self {
        let habits = Habits::steady(events);
        let one = |_| Client::with(address, key, habits.clone(), NEXT_SEED.fetch_add(1, Ordering::Relaxed));
        Self::of((0..clients).map(one))
    }

    /// Starts clients with `habits`, whose choices come from `seed`.
    pub fn with(address: SocketAddr, key: &str, clients: u64, habits: &Habits, seed: u64) -> Self {
        let seed_of = |n: u64| seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(n);
        Self::of((0..clients).map(|n| Client::with(address, key, habits.clone(), seed_of(n))))
    }

    fn of(clients: impl Iterator<Item = Client>) -> Self {
        let (stop, shared) = (Arc::<AtomicBool>::default(), Arc::<Shared>::default());
        let run = |mut client: Client| {
            client.shared = Arc::clone(&shared);
            let stop = Arc::clone(&stop);
            tokio::spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    client.send().await;
                    tokio::time::sleep(client.habits.pause).await;
                }
                client.account()
            })
        };
        let clients = clients.map(run).collect();
        Self { stop, clients, shared }
    }

    /// Lets every client give up after the answer that it waits for: something may be down for good.
    pub async fn abandon(self) -> Vec<Account> {
        self.shared.abandoned.store(true, Ordering::Relaxed);
        self.stop().await
    }

    /// Events acknowledged so far.
    pub fn acknowledged(&self) -> usize {
        self.shared.acknowledged.load(Ordering::Relaxed)
    }

    /// Batches refused so far.
    pub fn refused(&self) -> usize {
        self.shared.refused.load(Ordering::Relaxed)
    }

    /// Lets every client finish its batch; one that cannot is remarked upon.
    pub async fn stop(self) -> Vec<Account> {
        self.stop.store(true, Ordering::Relaxed);
        let ends = tokio::time::Instant::now() + FINISHING;
        let mut accounts = Vec::new();
        for mut client in self.clients {
            let remark = match tokio::time::timeout_at(ends, &mut client).await {
                Ok(Ok(account)) => {
                    accounts.push(account);
                    continue;
                }
                Ok(Err(error)) => format!("a client died: {error}"),
                Err(_) => format!("a client's last batch was not acknowledged within {FINISHING:?}"),
            };
            client.abort();
            accounts.push(Account { wrong: vec![remark], ..Account::default() });
        }
        accounts
    }
}
