//! `POST /v1/events`: read, judge, enqueue, answer.

use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderMap, Request, Response};

use super::batch::{Batch, judge};
use super::body::{Encoding, unpack};
use super::call::Call;
use super::formats::Format;
use super::formats::native::{self, Bounds};
use super::limits::Plan;
use super::receipt::{REMEMBER_MS, Receipt, hash_body};
use super::refuse;
use crate::directory::{KeyEntry, KeyKind};
use crate::domain::ids::check_identifier;
use crate::domain::validate::Rules;
use crate::domain::wire_event::WireEvent;
use crate::http::body::read;
use crate::http::problem::Problem;
use crate::lifecycle::crash_point;
use crate::queue::enqueue::{
    Closed, EnqueueReply, EnqueueRequest, Enqueued, OverQuota, QuotaCount, QuotaSubject, Remember,
};

/// Calls of the enqueue script for one request: each call after the first takes out what the one before found over a
/// limit, and from the third on whole players.
const MAX_CALLS: usize = 6;
const MIN_IDEMPOTENCY_KEY_LEN: usize = 16;

/// Answers a batch.
pub(super) async fn receive(call: &mut Call<'_>, request: Request<Body>) -> Result<Response<Body>, Problem> {
    let key = call.admit()?;
    let settings = &call.shared.settings;
    let (parts, body) = request.into_parts();
    let format = Format::of(&parts.headers).ok_or_else(refuse::unknown_content_type)?;
    let encoding = Encoding::of(&parts.headers).ok_or_else(refuse::unknown_encoding)?;
    let idempotency_key = idempotency_key(&parts.headers)?;
    let max = settings.ingest.max_body_bytes;
    let gap = Duration::from_secs(settings.http.http_body_timeout_seconds);
    let packed = read(body, &parts.headers, max, gap).await.map_err(|error| Problem::no_body(error, max))?;
    let body = unpack(packed, encoding, max).await.map_err(|error| refuse::packed_body(error, max))?;

    let bounds = Bounds { events: settings.ingest.max_batch_events, event_bytes: settings.ingest.max_event_bytes };
    let wires = native::read(format, &body, bounds).map_err(|problem| refuse::no_batch(&problem))?;
    let idempotency = idempotency_key.map(|key| Idempotency { key, body_hash: hash_body(&body) });
    let receipt = enqueue(call, &key, &wires, idempotency.as_ref()).await?;
    call.shared.measures.verdicts(&receipt.outcomes);
    Ok(receipt.respond(&wires, idempotency.is_some(), &settings.ingest))
}

/// An `Idempotency-Key` and the body it came with.
struct Idempotency<'a> {
    key: &'a str,
    body_hash: [u8; 32],
}

fn idempotency_key(headers: &HeaderMap) -> Result<Option<&str>, Problem> {
    let Some(value) = headers.get("idempotency-key") else { return Ok(None) };
    let text = value.to_str().map_err(|_| refuse::bad_idempotency_key())?;
    // The header is a structured string in the IETF draft, and bare in practice.
    let text = text.strip_prefix('"').and_then(|t| t.strip_suffix('"')).unwrap_or(text);
    if text.len() < MIN_IDEMPOTENCY_KEY_LEN || check_identifier(text).is_err() {
        return Err(refuse::bad_idempotency_key());
    }
    Ok(Some(text))
}

/// Judges the events and queues those that may be; the receipt of what was done, or of what was done before.
async fn enqueue(
    call: &mut Call<'_>,
    key: &KeyEntry,
    wires: &[WireEvent<'_>],
    idempotency: Option<&Idempotency<'_>>,
) -> Result<Receipt, Problem> {
    let ingest = &call.shared.settings.ingest;
    let rules = Rules {
        now: call.now,
        max_age_seconds: ingest.max_event_age_seconds,
        max_ahead_seconds: ingest.max_event_ahead_seconds,
        batch_id: call.batch_id,
    };
    let mut batch = judge(wires, &rules, &key.game, key.kind == KeyKind::Server);
    for round in 0..MAX_CALLS {
        match ask(call, key, &batch, idempotency).await? {
            Asked::Done(receipt) => {
                crash_point("ingest::after_enqueue");
                return Ok(receipt);
            }
            Asked::Remembered(bytes) => return remembered(&bytes, wires.len(), idempotency),
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

/// What one call came to.
enum Asked {
    /// All was done; this is its receipt.
    Done(Receipt),
    /// Nothing was done: this receipt stands under the `Idempotency-Key`.
    Remembered(Vec<u8>),
    /// Nothing was done: these players (`None`: the game) are over their quotas.
    Over(Vec<(Option<String>, OverQuota)>),
}

/// Asks Redis to do what the batch comes to.
async fn ask(
    call: &mut Call<'_>,
    key: &KeyEntry,
    batch: &Batch<'_>,
    idempotency: Option<&Idempotency<'_>>,
) -> Result<Asked, Problem> {
    let shared = call.shared;
    let receipt = Receipt {
        batch_id: batch.id,
        now: batch.now,
        retry_after: batch.retry_after,
        outcomes: batch.events.iter().map(|judged| judged.outcome).collect(),
    };
    let counts = receipt.counts();
    // What nobody may rely on is not remembered: a batch that was only over a limit may be sent again.
    let worth_keeping = counts.accepted > 0 || counts.retry == 0;
    let bytes = idempotency.filter(|_| worth_keeping).map(|i| receipt.to_bytes(&i.body_hash));
    if let Some(why) = shared.enqueuer.admission().closed()
        && (why == Closed::Unreachable || counts.accepted > 0)
    {
        return Err(if why == Closed::Unreachable {
            call.without_redis(refuse::closed(why))
        } else {
            refuse::closed(why)
        });
    }
    let of_game = shared.limits.of_game(&key.game);
    let plan = Plan::new(&shared.limits, key.game.id, of_game, batch.players(), call.now_ms());
    let [high, low] = batch.jobs(&key.game, key.kind == KeyKind::Server);
    let remember = idempotency.zip(bytes.as_deref()).map(|(idempotency, receipt)| Remember {
        key_id: key.id,
        key: idempotency.key,
        receipt,
        ttl_ms: REMEMBER_MS,
        max: shared.settings.ingest.max_idempotency_keys,
    });
    let (address, quotas) = (call.address_count(), plan.asked());
    let request =
        EnqueueRequest { game: key.game.id, batch_id: batch.id, address, quotas, high: &high, low: &low, remember };
    if request.is_empty() {
        return Ok(Asked::Done(receipt));
    }
    let Enqueued { address, reply } = shared.enqueuer.enqueue(&request).await;
    call.address_counted(address);
    if !matches!(reply, Ok(EnqueueReply::Done { .. })) {
        plan.give_back();
    }
    match reply {
        Ok(EnqueueReply::Done { received_at, quotas }) => {
            call.received_at = Some(received_at);
            if let Some(remaining) = plan.done(&quotas) {
                call.tell(remaining);
            }
            Ok(Asked::Done(receipt))
        }
        Ok(EnqueueReply::Over(over)) => Ok(Asked::Over(named(over, quotas))),
        Ok(EnqueueReply::Remembered(bytes)) => Ok(Asked::Remembered(bytes)),
        Ok(EnqueueReply::Blocked(for_ms)) => Err(call.redis_blocked(for_ms)),
        Ok(EnqueueReply::QueueFull(_)) => Err(refuse::closed(Closed::QueueFull)),
        Ok(EnqueueReply::ReceiptsFull) => Err(refuse::receipts_full()),
        Err(error) => {
            let problem = refuse::not_enqueued(&error);
            call.fault = Some(error);
            Err(call.without_redis(problem))
        }
    }
}

fn named(over: Vec<OverQuota>, quotas: &[QuotaCount<'_>]) -> Vec<(Option<String>, OverQuota)> {
    over.into_iter()
        .filter_map(|over| {
            let player = match quotas.get(over.index)?.subject {
                QuotaSubject::Player(player) => Some(player.to_owned()),
                QuotaSubject::Game => None,
            };
            Some((player, over))
        })
        .collect()
}

/// The receipt that stands under the batch's `Idempotency-Key`, if it is of this body.
fn remembered(bytes: &[u8], events: usize, idempotency: Option<&Idempotency<'_>>) -> Result<Receipt, Problem> {
    let (body_hash, receipt) = Receipt::from_bytes(bytes).ok_or_else(refuse::receipt_unreadable)?;
    if idempotency.is_none_or(|sent| sent.body_hash != body_hash) {
        return Err(refuse::idempotency_key_reused());
    }
    // The same bytes may be read as another format by another content type: another batch.
    if receipt.outcomes.len() == events { Ok(receipt) } else { Err(refuse::idempotency_key_reused()) }
}
