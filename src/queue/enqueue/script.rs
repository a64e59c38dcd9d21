//! Builds calls of `enqueue.lua` and reads its answers.

use redis::{Cmd, Value};

use super::keys::Keys;
use super::request::{Counted, EnqueueReply, EnqueueRequest, OverQuota};
use crate::domain::clock::Micros;

/// The script.
pub const SOURCE: &str = include_str!("enqueue.lua");

/// Which parts of a request one call carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parts {
    /// The address.
    pub address: bool,
    /// The quotas.
    pub quotas: bool,
    /// Jobs and receipt.
    pub queue: bool,
}

/// A game's jobs and their bytes are counted in one number: so many times its jobs, and its bytes.
pub const JOB: u64 = 1 << 40;
/// What Redis takes for a job beside its bytes: its id twice, and its places in a hash and a list.
const JOB_OVERHEAD: usize = 256;

/// How much the queue may hold.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Room {
    /// Most jobs.
    pub jobs: u64,
    /// Most bytes of jobs; 0: no bound.
    pub bytes: u64,
    /// How many of these bytes were free when last looked.
    pub free_bytes: u64,
    /// How many of them the request's game had then.
    pub of_game: u64,
}

/// The call for `parts` of `request`. `latest_stamp`: the latest `received_at` that this process was told, in µs.
pub fn command(
    hash: &str,
    keys: &Keys,
    request: &EnqueueRequest<'_>,
    parts: Parts,
    room: Room,
    latest_stamp: i64,
) -> Cmd {
    let address = request.address.filter(|_| parts.address);
    let quotas = if parts.quotas { request.quotas } else { &[] };
    let jobs = parts.queue && request.has_jobs();
    let remember = request.remember.filter(|_| parts.queue);
    let key_count = address.map_or(0, |_| 2) + quotas.len() + if jobs { 5 } else { 0 } + remember.map_or(0, |_| 4);

    let mut command =
        Cmd::with_capacity(16 + key_count + 3 * quotas.len(), 512 + request.high.len() + request.low.len());
    command.arg("EVALSHA").arg(hash).arg(key_count);
    if let Some(counted) = address {
        for key in &keys.address(&counted) {
            command.arg(key);
        }
    }
    for quota in quotas {
        command.arg(keys.quota(request.game, quota.subject));
    }
    if jobs {
        for key in &keys.queue {
            command.arg(key);
        }
    }
    if let Some(remember) = remember {
        command.arg(keys.receipt(&remember.name)).arg(&keys.receipt_budgets(&remember.name));
    }
    command.arg(address.map_or(0, |a| a.limit)).arg(address.map_or(0, |a| a.block_ms));
    command.arg(quotas.len()).arg(u8::from(jobs)).arg(u8::from(remember.is_some()));
    for quota in quotas {
        command.arg(quota.limit).arg(quota.held).arg(quota.new);
    }
    if jobs {
        let lanes = [(request.high, 'h'), (request.low, 'l')];
        command.arg(room.jobs).arg(&keys.wake).arg(request.high).arg(request.low);
        for (job, lane) in lanes {
            command.arg(id_after_stamp(request, job.len() + JOB_OVERHEAD, lane));
        }
        let added =
            lanes.iter().filter(|(job, _)| !job.is_empty()).map(|(job, _)| JOB + (job.len() + JOB_OVERHEAD) as u64);
        command.arg(request.game.0).arg(added.sum::<u64>()).arg(request.share_percent);
        command.arg(room.bytes).arg(room.free_bytes).arg(room.of_game).arg(latest_stamp);
    }
    if let Some(remember) = remember {
        command.arg(remember.receipt).arg(remember.known).arg(remember.ttl_ms).arg(remember.max).arg(remember.max_all);
    }
    command
}

/// What follows `received_at` in the id of a request's job: whoever settles it takes it off its game's share by
/// that. What is queued later of the same batch has another name, so that no two jobs ever have one id, whatever
/// Redis's clock does.
fn id_after_stamp(request: &EnqueueRequest<'_>, bytes: usize, lane: char) -> String {
    let (batch, game) = (request.batch_id.hyphenated(), request.game.0);
    match request.queued_before {
        0 => format!("-{batch}@{game}.{bytes}-{lane}"),
        before => format!("-{batch}.{before}@{game}.{bytes}-{lane}"),
    }
}

/// What an answer says of the address.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct OfAddress {
    /// What is left of its limit, if it was counted.
    pub counted: Option<Counted>,
    /// For how many milliseconds it is blocked, if it is and was told a receipt all the same.
    pub blocked_ms: Option<u64>,
}

/// Reads an answer, and what it says of the address; `None` when it is none the script gives.
pub fn reply(value: Value, counts_address: bool) -> Option<(EnqueueReply, OfAddress)> {
    let Value::Array(items) = value else { return None };
    let mut items = items.into_iter();
    let status = integer(&items.next()?)?;
    let text = if matches!(status, 0 | 3) { Some(items.next()?) } else { None };
    let numbers = items.map(|v| integer(&v)).collect::<Option<Vec<i64>>>()?;
    let (reply, address) = match (status, text, numbers.as_slice()) {
        (0, Some(Value::BulkString(digits)), [left, reset, quotas @ ..]) => {
            let received_at = Micros(std::str::from_utf8(&digits).ok()?.parse().ok()?);
            let quotas = quotas.chunks_exact(2).map(|pair| counted(pair[0], pair[1])).collect();
            (EnqueueReply::Done { received_at, quotas }, Some((*left, *reset)))
        }
        (1, _, [for_ms]) => (EnqueueReply::Blocked(positive(*for_ms)), None),
        (2, _, over) => {
            let over = over.chunks_exact(3).map(|of| OverQuota {
                index: usize::try_from(of[0] - 1).unwrap_or(usize::MAX),
                left: clamp(of[1]),
                retry_after_ms: positive(of[2]),
            });
            (EnqueueReply::Over(over.collect()), None)
        }
        (3, Some(Value::BulkString(receipt)), [left, reset, blocked_ms]) => {
            let counted = (*blocked_ms == 0 && counts_address).then(|| counted(*left, *reset));
            let blocked_ms = Some(positive(*blocked_ms)).filter(|ms| *ms > 0);
            return Some((EnqueueReply::Remembered(receipt), OfAddress { counted, blocked_ms }));
        }
        (4, _, [jobs, left, reset]) => (EnqueueReply::QueueFull(positive(*jobs)), Some((*left, *reset))),
        (5, _, [of_all, retry_after_ms, left, reset]) => {
            let retry_after_ms = positive(*retry_after_ms);
            (EnqueueReply::ReceiptsFull { of_all: *of_all == 1, retry_after_ms }, Some((*left, *reset)))
        }
        (6, _, [jobs, left, reset]) => (EnqueueReply::GameShare(positive(*jobs)), Some((*left, *reset))),
        _ => return None,
    };
    let counted = address.filter(|_| counts_address).map(|(left, reset)| counted(left, reset));
    Some((reply, OfAddress { counted, blocked_ms: None }))
}

/// What is left, and ms until its window ends.
fn counted(left: i64, reset: i64) -> Counted {
    Counted { amount: clamp(left), reset_ms: positive(reset) }
}

fn integer(value: &Value) -> Option<i64> {
    if let Value::Int(number) = value { Some(*number) } else { None }
}

fn clamp(number: i64) -> u32 {
    u32::try_from(number.max(0)).unwrap_or(u32::MAX)
}

fn positive(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}
