//! What one call of the enqueue script asks for, and what it answers.

use uuid::Uuid;

use crate::domain::clock::Micros;
use crate::domain::ids::GameId;

/// Counts a request against its address.
#[derive(Debug, Clone, Copy)]
pub struct AddressCount<'a> {
    /// The client's address, as limits count it.
    pub address: &'a str,
    /// The game of the client's key: one game's clients do not use up what another's may send from there.
    pub game: Option<GameId>,
    /// Requests a minute; at least 1.
    pub limit: u32,
    /// How long it is blocked once over.
    pub block_ms: u64,
}

/// Whose events are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QuotaSubject<'a> {
    /// A player of the request's game.
    Player(&'a str),
    /// The game itself.
    Game,
}

/// Counts events against a quota of events a minute.
#[derive(Debug, Clone, Copy)]
pub struct QuotaCount<'a> {
    /// Whose.
    pub subject: QuotaSubject<'a>,
    /// Events a minute.
    pub limit: u32,
    /// Events accepted before that Redis does not know of.
    pub held: u32,
    /// Events of this request.
    pub new: u32,
}

/// What a receipt stands under.
#[derive(Debug, Clone, Copy)]
pub struct ReceiptName<'a> {
    /// Whose batch it is of.
    pub game: GameId,
    /// `api_keys.id`.
    pub key_id: i32,
    /// Whether that is a server key: they have a budget of their own.
    pub from_server: bool,
    /// The client's `Idempotency-Key`, a valid identifier.
    pub key: &'a str,
}

/// A receipt to find, or to keep, under an `Idempotency-Key`.
#[derive(Debug, Clone, Copy)]
pub struct Remember<'a> {
    /// Under what.
    pub name: ReceiptName<'a>,
    /// What to keep; empty: nothing, only look whether one stands.
    pub receipt: &'a [u8],
    /// The one that the caller has read, which `receipt` replaces; empty: none. Another one is answered,
    /// and nothing done.
    pub known: &'a [u8],
    /// For how long from the first one on.
    pub ttl_ms: u64,
    /// Most receipts of a game by keys of one kind.
    pub max: u32,
    /// Most receipts of all games.
    pub max_all: u32,
}

/// One request's call.
#[derive(Debug, Clone, Copy)]
pub struct EnqueueRequest<'a> {
    /// Whose batch.
    pub game: GameId,
    /// Its id.
    pub batch_id: Uuid,
    /// How many of its events were queued before, under the same id.
    pub queued_before: usize,
    /// The address to count, unless it is exempt.
    pub address: Option<AddressCount<'a>>,
    /// The quotas to count.
    pub quotas: &'a [QuotaCount<'a>],
    /// The job of the lane `high`; empty: none.
    pub high: &'a [u8],
    /// The job of the lane `low`; empty: none.
    pub low: &'a [u8],
    /// Most percent of the queue that the game may fill alone; 100: all of it.
    pub share_percent: u8,
    /// The receipt to remember or find.
    pub remember: Option<Remember<'a>>,
}

impl EnqueueRequest<'_> {
    /// Whether there is anything to ask Redis.
    pub fn is_empty(&self) -> bool {
        self.address.is_none() && self.quotas.is_empty() && !self.touches_queue()
    }

    /// Whether it reads or writes the queue's own keys.
    pub fn touches_queue(&self) -> bool {
        self.has_jobs() || self.remember.is_some()
    }

    /// Whether it pushes a job.
    pub fn has_jobs(&self) -> bool {
        !self.high.is_empty() || !self.low.is_empty()
    }
}

/// What is left of a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counted {
    /// For an address: requests left. For a quota: events used.
    pub amount: u32,
    /// Milliseconds until its window ends.
    pub reset_ms: u64,
}

/// A quota that is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OverQuota {
    /// Its place in [`EnqueueRequest::quotas`].
    pub index: usize,
    /// How many events still fit.
    pub left: u32,
    /// Milliseconds until the others fit too (as many of them as the limit is, at most), if what fits now is counted.
    pub retry_after_ms: u64,
}

/// What came of a request.
#[derive(Debug)]
pub struct Enqueued {
    /// What is left of the address's limit, whenever it was counted: whatever became of the rest, Redis has a key for
    /// it now.
    pub address: Option<Counted>,
    /// For how many milliseconds the address is blocked, where a receipt is told all the same.
    pub blocked_ms: Option<u64>,
    /// What became of the rest.
    ///
    /// [`EnqueueError`]: the outcome is unknown, or Redis took nothing.
    pub reply: Result<EnqueueReply, EnqueueError>,
}

/// What the script did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EnqueueReply {
    /// Everything that was asked for.
    Done {
        /// When, by Redis's clock: the jobs' `received_at`.
        received_at: Micros,
        /// The quotas in the order of the request.
        quotas: Vec<Counted>,
    },
    /// Nothing: the address is blocked for so many milliseconds.
    Blocked(u64),
    /// Nothing: these quotas are over.
    Over(Vec<OverQuota>),
    /// Nothing but counting the address: this receipt stands under the `Idempotency-Key`.
    Remembered(Vec<u8>),
    /// Nothing but counting the address: so many jobs are stored.
    QueueFull(u64),
    /// Nothing but counting the address: the game has as many receipts as it may have by keys of this kind; or all
    /// games together have as many as there may be.
    ReceiptsFull {
        /// Whether it is the bound of all games together.
        of_all: bool,
        /// Milliseconds until some expire.
        retry_after_ms: u64,
    },
    /// Nothing but counting the address: so many jobs of the game are stored, which is its share of the queue.
    GameShare(u64),
}

/// Why nothing is known of a call.
#[derive(Debug, thiserror::Error)]
pub enum EnqueueError {
    /// Redis is away or does not answer in time: the batch may or may not be queued.
    #[error("Redis is unreachable: {0}")]
    Unreachable(String),
    /// Redis is over its `maxmemory`: nothing was queued.
    #[error("Redis is out of memory")]
    OutOfMemory,
    /// The Redis that counts limits is away, and nothing was asked of the queue.
    #[error("the Redis that counts limits does not answer")]
    LimitsAway,
    /// Redis refused the script, or answered what it cannot.
    #[error("Redis refused: {0}")]
    Refused(String),
}
