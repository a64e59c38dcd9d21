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

/// The call for `parts` of `request`. `latest_stamp`: the latest `received_at` that this process was told, in µs.
pub fn command(
    hash: &str,
    keys: &Keys,
    request: &EnqueueRequest<'_>,
    parts: Parts,
    max_jobs: u64,
    latest_stamp: i64,
) -> Cmd {
    let address = request.address.filter(|_| parts.address);
    let quotas = if parts.quotas { request.quotas } else { &[] };
    let jobs = parts.queue && request.has_jobs();
    let remember = request.remember.filter(|_| parts.queue);
    let key_count = address.map_or(0, |_| 2) + quotas.len() + if jobs { 4 } else { 0 } + remember.map_or(0, |_| 2);

    let mut command =
        Cmd::with_capacity(16 + key_count + 3 * quotas.len(), 512 + request.high.len() + request.low.len());
    command.arg("EVALSHA").arg(hash).arg(key_count);
    if let Some(counted) = address {
        for key in &keys.address(counted.address) {
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
    if remember.is_some()
        && let Some([receipt, receipts]) = keys.receipt(request)
    {
        command.arg(receipt).arg(receipts);
    }
    command.arg(address.map_or(0, |a| a.limit)).arg(address.map_or(0, |a| a.block_ms));
    command.arg(quotas.len()).arg(u8::from(jobs)).arg(u8::from(remember.is_some()));
    for quota in quotas {
        command.arg(quota.limit).arg(quota.held).arg(quota.new);
    }
    if jobs {
        let mut batch = uuid::Uuid::encode_buffer();
        let batch: &str = request.batch_id.hyphenated().encode_lower(&mut batch);
        command.arg(max_jobs).arg(&keys.wake).arg(batch).arg(request.high).arg(request.low).arg(latest_stamp);
    }
    if let Some(remember) = remember {
        command.arg(remember.receipt).arg(remember.ttl_ms).arg(remember.max);
    }
    command
}

/// Reads an answer, and what it says of the address; `None` when it is none the script gives.
pub fn reply(value: Value, counts_address: bool) -> Option<(EnqueueReply, Option<Counted>)> {
    let Value::Array(items) = value else { return None };
    let mut items = items.into_iter();
    let status = integer(&items.next()?)?;
    let mut address = None;
    let reply = match status {
        0 => {
            let received_at = match items.next()? {
                Value::BulkString(digits) => std::str::from_utf8(&digits).ok()?.parse().ok()?,
                _ => return None,
            };
            let numbers = items.map(|v| integer(&v)).collect::<Option<Vec<i64>>>()?;
            let mut counts = numbers.chunks_exact(2).map(counted);
            address = counts.next();
            EnqueueReply::Done { received_at: Micros(received_at), quotas: counts.collect() }
        }
        1 => EnqueueReply::Blocked(positive(integer(&items.next()?)?)),
        2 => {
            let numbers = items.map(|v| integer(&v)).collect::<Option<Vec<i64>>>()?;
            let over = numbers.chunks_exact(3).map(|of| OverQuota {
                index: usize::try_from(of[0] - 1).unwrap_or(usize::MAX),
                left: clamp(of[1]),
                retry_after_ms: positive(of[2]),
            });
            EnqueueReply::Over(over.collect())
        }
        3 => {
            let Value::BulkString(receipt) = items.next()? else { return None };
            address = Some(counted(&[integer(&items.next()?)?, integer(&items.next()?)?]));
            EnqueueReply::Remembered(receipt)
        }
        4 => EnqueueReply::QueueFull(positive(integer(&items.next()?)?)),
        5 => EnqueueReply::ReceiptsFull,
        _ => return None,
    };
    Some((reply, address.filter(|_| counts_address)))
}

/// What is left, and ms until the window ends.
fn counted(pair: &[i64]) -> Counted {
    Counted { amount: clamp(pair[0]), reset_ms: positive(pair[1]) }
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
