//! `POST /v1/events`: read, judge, enqueue, answer.

use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, Request, Response};

use super::batch::{judge, judge_again};
use super::body::{Encoding, unpack};
use super::body_hash::hash_events;
use super::call::{Admitted, Call};
use super::enqueue::{Asked, ask};
use super::formats::Format;
use super::formats::native::{self, Bounds};
use super::idempotency::{Keyed, idempotency_key, remembered};
use super::receipt::{Receipt, Remembered};
use super::refuse;
use super::validate::Rules;
use super::wire_event::WireEvent;
use crate::directory::{KeyEntry, KeyKind};
use crate::http::body::read;
use crate::http::problem::Problem;
use crate::queue::enqueue::{Closed, ReceiptName};
use crate::runtime::crash_points::crash_point;

/// Calls of the enqueue script for one request: each call after the first takes out what the one before found over a
/// limit, and from the third on whole players.
const MAX_CALLS: usize = 6;

/// Answers a batch.
pub(super) async fn receive(call: &mut Call<'_>, request: Request<Body>) -> Result<Response<Body>, Problem> {
    let Admitted { key, refusal } = call.admit()?;
    let (parts, body) = request.into_parts();
    let idempotency_key = match (idempotency_key(&parts.headers), &refusal) {
        (Ok(None) | Err(_), Some(_)) => None,
        (read, _) => read?,
    };
    let name = idempotency_key.map(|idempotency_key| ReceiptName {
        game: key.game.id,
        key_id: key.id,
        from_server: key.kind == KeyKind::Server,
        key: idempotency_key,
    });
    // What is refused is refused before its body is read, unless its batch was queued before.
    let standing = match refusal {
        Some(refusal) => Some((standing_receipt(call, name.as_ref(), &refusal).await?, refusal)),
        None => None,
    };
    let format = Format::of(&parts.headers).ok_or_else(refuse::unknown_content_type)?;
    let body = read_body(call, &parts.headers, body).await?;
    let ingest = &call.shared.settings.ingest;
    let bounds = Bounds { events: ingest.max_batch_events, event_bytes: ingest.max_event_bytes };
    let wires = native::read(format, &body, bounds).map_err(|problem| refuse::no_batch(&problem))?;
    let receipt = match standing {
        Some((receipt, refusal)) => as_it_stands(&remembered(&receipt, &body, &wires)?, &refusal),
        None => {
            let keyed = name.map(|name| Keyed { name, body: &body, hash: hash_events(&wires) });
            enqueue(call, &key, &wires, keyed.as_ref()).await?
        }
    };
    call.shared.measures.verdicts(&receipt.outcomes);
    Ok(receipt.respond(&wires, name.is_some(), ingest))
}

async fn read_body(call: &Call<'_>, headers: &HeaderMap, body: Body) -> Result<Bytes, Problem> {
    let settings = &call.shared.settings;
    let encoding = Encoding::of(headers).ok_or_else(refuse::unknown_encoding)?;
    let max = settings.ingest.max_body_bytes;
    let gap = Duration::from_secs(settings.http.http_body_timeout_seconds);
    let packed = read(body, headers, max, gap).await.map_err(|error| Problem::no_body(error, max))?;
    unpack(packed, encoding, max).await.map_err(|error| refuse::packed_body(error, max))
}

/// The receipt that stands for a request that is refused; without one it is refused.
async fn standing_receipt(
    call: &Call<'_>,
    name: Option<&ReceiptName<'_>>,
    refusal: &Problem,
) -> Result<Vec<u8>, Problem> {
    let Some(name) = name.filter(|_| call.may_ask_for_receipt()) else { return Err(refusal.clone()) };
    let found = call.shared.enqueuer.receipt(name).await;
    found.ok().flatten().ok_or_else(|| refusal.clone())
}

/// A receipt while nothing is taken: what may be sent again may be sent when the refusal says, not before.
fn as_it_stands(remembered: &Remembered, refusal: &Problem) -> Receipt {
    let mut receipt = remembered.receipt.clone();
    if receipt.counts().retry > 0 {
        receipt.retry_after = receipt.retry_after.max(refusal.retry_after.unwrap_or_default());
    }
    receipt
}

/// Judges the events and queues those that may be; the receipt of what was done, now or before.
async fn enqueue(
    call: &mut Call<'_>,
    key: &KeyEntry,
    wires: &[WireEvent<'_>],
    keyed: Option<&Keyed<'_>>,
) -> Result<Receipt, Problem> {
    let ingest = &call.shared.settings.ingest;
    let rules = Rules {
        now: call.now,
        max_age_seconds: ingest.max_event_age_seconds,
        max_ahead_seconds: ingest.max_event_ahead_seconds,
        batch_id: call.batch_id,
    };
    let from_server = key.kind == KeyKind::Server;
    let mut batch = judge(wires, &rules, &key.game, from_server);
    let mut known = Vec::new();
    for round in 0..MAX_CALLS {
        match ask(call, key, &batch, keyed, &known).await? {
            Asked::Done => {
                crash_point("ingest::after_enqueue");
                return Ok(Receipt::of(&batch));
            }
            Asked::Remembered(bytes) => {
                let Remembered { receipt, .. } = remembered(&bytes, keyed.map_or(&[], |keyed| keyed.body), wires)?;
                let rules = Rules { batch_id: receipt.batch_id, ..rules };
                batch = judge_again(wires, &receipt.outcomes, &rules, &key.game, from_server);
                if !receipt.outcomes.iter().any(|outcome| outcome.may_change()) {
                    return Ok(receipt);
                }
                known = bytes;
            }
            Asked::Over(over) => {
                for (player, quota) in over {
                    call.shared.measures.limited(if player.is_some() { "player" } else { "game" }, "redis");
                    let left = if round < 2 { quota.left } else { 0 };
                    batch.limit(player.as_deref(), left, quota.retry_after_ms);
                }
            }
        }
    }
    Err(refuse::closed(Closed::QueueFull))
}
