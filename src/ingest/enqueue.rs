//! One call to the queue for a judged batch, and what it came to.

use super::batch::Batch;
use super::call::Call;
use super::idempotency::Keyed;
use super::limits::Plan;
use super::receipt::{REMEMBER_MS, Receipt};
use super::refuse;
use crate::directory::{KeyEntry, KeyKind};
use crate::http::problem::Problem;
use crate::queue::enqueue::{
    Closed, EnqueueError, EnqueueReply, EnqueueRequest, Enqueued, OverQuota, QuotaCount, QuotaSubject, Remember,
};

/// What one call came to.
pub(super) enum Asked {
    /// All was done that the batch comes to.
    Done,
    /// Nothing was done: this receipt stands under the `Idempotency-Key`.
    Remembered(Vec<u8>),
    /// Nothing was done: these players (`None`: the game) are over their quotas.
    Over(Vec<(Option<String>, OverQuota)>),
}

/// Asks Redis to do what the batch comes to. `known`: the receipt that it was judged again by; empty: it is new here.
///
/// # Errors
/// The refusal of the whole batch.
pub(super) async fn ask(
    call: &mut Call<'_>,
    key: &KeyEntry,
    batch: &Batch<'_>,
    keyed: Option<&Keyed<'_>>,
    known: &[u8],
) -> Result<Asked, Problem> {
    // The receipt was found already, and says all that there is to say.
    if !known.is_empty() && !batch.queues_any() {
        return Ok(Asked::Done);
    }
    if call.shared.enqueuer.admission().closed() == Some(Closed::Unreachable) {
        return Err(call.without_redis(refuse::closed(Closed::Unreachable)));
    }
    let shared = call.shared;
    let of_game = shared.limits.of_game(&key.game);
    let plan = Plan::new(&shared.limits, key.game.id, of_game, batch.players(), call.now_ms());
    let from_server = key.kind == KeyKind::Server;
    let [high, low] = batch.jobs(&key.game, from_server);
    // Where nothing is queued nothing needs to be kept: sent again, the batch is judged again.
    let receipt = keyed.filter(|_| batch.queues_any()).map(|keyed| Receipt::of(batch).to_bytes(&keyed.hash));
    let ingest = &shared.settings.ingest;
    let remember = keyed.map(|keyed| Remember {
        name: keyed.name,
        receipt: receipt.as_deref().unwrap_or_default(),
        known,
        ttl_ms: REMEMBER_MS,
        max: ingest.max_idempotency_keys,
        max_all: ingest.max_idempotency_keys_in_all,
    });
    let mut request = EnqueueRequest {
        game: key.game.id,
        batch_id: batch.id,
        queued_before: batch.queued_before,
        address: None,
        quotas: plan.asked(),
        high: &high,
        low: &low,
        share_percent: share_percent(call),
        remember,
    };
    let mut asked_limits = !shared.enqueuer.limits_are_away();
    let Enqueued { address, blocked_ms, reply } = loop {
        if !asked_limits {
            if let Some(over) = call.over_locally() {
                plan.give_back();
                return Err(over);
            }
            request.quotas = &[];
        }
        let request = EnqueueRequest { address: call.address_count(), ..request };
        if request.is_empty() {
            return Ok(Asked::Done);
        }
        let enqueued = shared.enqueuer.enqueue(&request).await;
        if matches!(enqueued.reply, Err(EnqueueError::LimitsAway)) && std::mem::take(&mut asked_limits) {
            continue;
        }
        break enqueued;
    };
    call.address_counted(address);
    if let Some(for_ms) = blocked_ms {
        call.blocked_meanwhile(for_ms);
    }
    if !asked_limits || !matches!(reply, Ok(EnqueueReply::Done { .. })) {
        plan.give_back();
    }
    match reply {
        Ok(EnqueueReply::Done { received_at, quotas }) => {
            call.received_at = Some(received_at);
            if let Some(remaining) = plan.done(&quotas) {
                call.tell(remaining);
            }
            Ok(Asked::Done)
        }
        Ok(EnqueueReply::Over(over)) => Ok(Asked::Over(named(over, plan.asked()))),
        Ok(EnqueueReply::Remembered(bytes)) => Ok(Asked::Remembered(bytes)),
        refused => Err(refusal(call, key, refused)),
    }
}

/// Most percent of the queue that a game may fill alone: all of it, where it is the only one.
fn share_percent(call: &Call<'_>) -> u8 {
    if call.shared.directory.load().games.len() > 1 { call.shared.settings.queue.queue_game_share } else { 100 }
}

fn refusal(call: &mut Call<'_>, key: &KeyEntry, reply: Result<EnqueueReply, EnqueueError>) -> Problem {
    match reply {
        Ok(EnqueueReply::Blocked(for_ms)) => call.redis_blocked(for_ms),
        Ok(EnqueueReply::ReceiptsFull { of_all, retry_after_ms }) => {
            call.shared.measures.limited(if of_all { "receipts_of_all" } else { "receipts" }, "redis");
            refuse::receipts_full(of_all, retry_after_ms)
        }
        Ok(EnqueueReply::GameShare(jobs)) => {
            tracing::debug!(game = key.game.id.0, jobs, "a game holds its share of the queue");
            call.shared.measures.limited("share", "redis");
            call.shared.limits.game_is_full(key.game.id, call.now_ms());
            refuse::game_share()
        }
        Ok(_) => refuse::closed(Closed::QueueFull),
        Err(error) => {
            let problem = refuse::not_enqueued(&error);
            call.fault = Some(error);
            call.without_redis(problem)
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
