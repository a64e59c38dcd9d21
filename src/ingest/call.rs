//! One request from outside: who sends it, what limits know of it, and how its answer is finished.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};
use axum::response::IntoResponse;
use tokio::time::Instant;
use tracing::Level;
use uuid::Uuid;

use super::authentication::{Unauthenticated, authenticate};
use super::limits::{Remaining, Sender};
use super::refuse;
use super::state::Shared;
use crate::directory::{KeyEntry, KeyKind};
use crate::domain::clock::Micros;
use crate::domain::ids::{GameId, check_identifier};
use crate::http::client_address::client_address;
use crate::http::problem::Problem;
use crate::queue::enqueue::{AddressCount, Closed, Counted, EnqueueError, EnqueueReply, EnqueueRequest, Enqueued};
use crate::telemetry::log_budget::LogBudget;

const REQUEST_ID: &str = "x-request-id";

/// A request with a key that exists.
pub(super) struct Admitted {
    pub key: KeyEntry,
    /// Why nothing of it is taken, known before its body is read. A receipt that stands is told all the same.
    pub refusal: Option<Problem>,
}

/// A request under way.
pub(super) struct Call<'s> {
    pub shared: &'s Shared,
    pub now: Micros,
    pub key: Result<KeyEntry, Unauthenticated>,
    /// The id of its batch, should it have one.
    pub batch_id: Uuid,
    /// When Redis took its jobs, for the log.
    pub received_at: Option<Micros>,
    /// Why Redis did not acknowledge it, for the log.
    pub fault: Option<EnqueueError>,
    route: &'static str,
    started: Instant,
    request_id: HeaderValue,
    sender: Sender,
    address_text: String,
    /// Whether the request was counted against its address, or need not be.
    counted: bool,
    remaining: Option<Remaining>,
    code: &'static str,
}

impl<'s> Call<'s> {
    pub fn begin(shared: &'s Shared, request: &Request<Body>, route: &'static str) -> Self {
        let peer = request.extensions().get::<ConnectInfo<SocketAddr>>();
        let peer = peer.map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |ConnectInfo(address)| address.ip());
        let address = client_address(peer, request.headers(), &shared.settings.http.trusted_proxies);
        let now = shared.clock.now();
        let key = authenticate(request.headers(), &shared.directory.load());
        let batch_id = new_batch_id(now);
        let exempt = shared.limits.requests() == 0 || key.as_ref().is_ok_and(|key| key.kind == KeyKind::Server);
        let sender = Sender { game: key.as_ref().ok().map(|key| key.game.id), address };
        Self {
            shared,
            now,
            key,
            batch_id,
            received_at: None,
            fault: None,
            route,
            started: Instant::now(),
            request_id: request_id(request.headers(), batch_id),
            sender,
            address_text: address.to_string(),
            counted: exempt,
            remaining: None,
            code: "",
        }
    }

    pub fn now_ms(&self) -> i64 {
        self.now.0 / 1_000
    }

    /// What can be refused before anything is read: a blocked address, or a queue that is full, costs neither a body
    /// nor a call to Redis.
    pub fn admit(&mut self) -> Result<Admitted, Problem> {
        let over = self.known_over_limit();
        if self.key.is_err()
            && let Some(over) = over
        {
            return Err(over);
        }
        if self.shared.directory.load().version == 0 && self.key.is_err() {
            // A fault of ours alone.
            self.counted = true;
            return Err(refuse::no_directory());
        }
        let key = self.key.clone().map_err(|why| match why {
            Unauthenticated::NoKey => Problem::key_missing(),
            Unauthenticated::UnknownKey => {
                let refusal = self.shared.guesses.refuse(self.sender.address, self.now_ms());
                if refusal.status == StatusCode::TOO_MANY_REQUESTS {
                    self.shared.measures.limited("guesses", "cache");
                    self.counted = true;
                }
                refusal
            }
        })?;
        let refusal = match over {
            Some(over) => Some(over),
            None => self.closed_to(key.game.id)?,
        };
        Ok(Admitted { key, refusal })
    }

    /// The refusal of an address that is over its limit, as far as this replica knows.
    fn known_over_limit(&mut self) -> Option<Problem> {
        let (limits, now_ms) = (&self.shared.limits, self.now_ms());
        if self.counted {
            return None;
        }
        if let Some(for_ms) = limits.denied(self.sender, now_ms) {
            self.shared.measures.limited("requests", "cache");
            self.counted = true;
            return Some(self.blocked(for_ms));
        }
        if limits.asks_redis(now_ms) { None } else { self.over_locally() }
    }

    /// Why the queue takes nothing of a game at present. Whoever is refused for it is counted here: Redis is not to be
    /// filled, or not there. While it is not there receipts cannot be told either.
    fn closed_to(&mut self, game: GameId) -> Result<Option<Problem>, Problem> {
        match self.shared.enqueuer.admission().closed() {
            Some(Closed::Unreachable) => Err(self.without_redis(refuse::closed(Closed::Unreachable))),
            Some(why) => Ok(Some(self.without_redis(refuse::closed(why)))),
            None if self.shared.limits.was_full(game, self.now_ms()) => {
                self.shared.measures.limited("share", "cache");
                Ok(Some(self.without_redis(refuse::game_share())))
            }
            None => Ok(None),
        }
    }

    /// Whether the sender of a batch that is refused may still ask for a receipt.
    pub fn may_ask_for_receipt(&self) -> bool {
        let from_server = self.key.as_ref().is_ok_and(|key| key.kind == KeyKind::Server);
        from_server || self.shared.limits.may_ask_for_receipt(self.sender, self.now_ms())
    }

    /// The address to count with the enqueue, unless it is exempt or was counted.
    pub fn address_count(&self) -> Option<AddressCount<'_>> {
        let limits = &self.shared.limits;
        (!self.counted).then(|| AddressCount {
            address: &self.address_text,
            game: self.sender.game,
            limit: limits.requests(),
            block_ms: limits.block_ms(),
        })
    }

    /// What the enqueue call says of the address, if it counted it: to be told whatever else it answers, as each
    /// address that Redis counts is a key of its own there.
    pub fn address_counted(&mut self, counted: Option<Counted>) {
        let Some(counted) = counted else { return };
        let (limit, left) = (self.shared.limits.requests(), counted.amount);
        self.shared.limits.counted(left, self.now_ms());
        self.tell(Remaining { name: "requests", limit, left, reset_ms: counted.reset_ms });
        self.counted = true;
    }

    /// Remembers a limit for the headers, if it is the tightest.
    pub fn tell(&mut self, remaining: Remaining) {
        self.remaining = Some(self.remaining.map_or(remaining, |known| known.tighter(remaining)));
    }

    /// Redis says that the address is blocked.
    pub fn redis_blocked(&mut self, for_ms: u64) -> Problem {
        self.counted = true;
        self.shared.measures.limited("requests", "redis");
        self.shared.limits.deny(self.sender, for_ms, self.now_ms());
        self.blocked(for_ms)
    }

    /// Redis says that the address is blocked, and this request was told its receipt all the same.
    pub fn blocked_meanwhile(&mut self, for_ms: u64) {
        let _ = self.redis_blocked(for_ms);
    }

    /// Counts the address in this process, unless it was counted; the refusal, should it be over its limit.
    pub fn over_locally(&mut self) -> Option<Problem> {
        if std::mem::replace(&mut self.counted, true) {
            return None;
        }
        let for_ms = self.shared.limits.refused_locally(self.sender, self.now_ms())?;
        self.shared.measures.limited("requests", "local");
        Some(self.blocked(for_ms))
    }

    /// Redis is away, or is not to be filled: the local limiter decides whether this is refused as too much, or
    /// as not possible.
    pub fn without_redis(&mut self, otherwise: Problem) -> Problem {
        self.over_locally().unwrap_or(otherwise)
    }

    fn blocked(&mut self, for_ms: u64) -> Problem {
        let limit = self.shared.limits.requests();
        self.tell(Remaining { name: "requests", limit, left: 0, reset_ms: for_ms });
        refuse::address_blocked(for_ms, limit)
    }

    /// A request that never came to the enqueue call counts against its address too.
    pub async fn count_refusal(&mut self, problem: Problem) -> Problem {
        if self.counted {
            return problem;
        }
        let enqueuer = &self.shared.enqueuer;
        let writes = enqueuer.admission().closed().is_none() && !enqueuer.limits_are_away();
        if problem.status.is_server_error() || !writes || !self.shared.limits.asks_redis(self.now_ms()) {
            return self.without_redis(problem);
        }
        let request = EnqueueRequest {
            game: GameId(0),
            batch_id: self.batch_id,
            queued_before: 0,
            address: self.address_count(),
            quotas: &[],
            high: &[],
            low: &[],
            share_percent: 100,
            remember: None,
        };
        let Enqueued { address, reply, .. } = enqueuer.enqueue(&request).await;
        self.address_counted(address);
        match reply {
            Ok(EnqueueReply::Blocked(for_ms)) => self.redis_blocked(for_ms),
            Ok(EnqueueReply::Done { .. }) => problem,
            _ => self.without_redis(problem),
        }
    }

    /// Turns a refusal into the answer.
    pub async fn refuse(&mut self, problem: Problem) -> Response<Body> {
        let problem = self.count_refusal(problem).await;
        self.code = problem.code;
        problem.into_response()
    }

    /// Adds what every answer carries, measures and logs.
    pub fn finish(self, mut response: Response<Body>) -> Response<Body> {
        let headers = response.headers_mut();
        headers.insert(REQUEST_ID, self.request_id.clone());
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        let (policy, state) = self.rate_limit();
        for (name, value) in [("ratelimit-policy", policy), ("ratelimit", state)] {
            if !value.is_empty()
                && let Ok(value) = HeaderValue::try_from(value)
            {
                headers.insert(name, value);
            }
        }
        let took = self.started.elapsed();
        self.shared.measures.request(self.route, response.status(), took);
        self.log(response.status(), took);
        response
    }

    /// `RateLimit-Policy` and `RateLimit` (draft-ietf-httpapi-ratelimit-headers-10): every limit that concerns this
    /// caller, and the tightest as this replica last knew it.
    fn rate_limit(&self) -> (String, String) {
        let mut policy = String::with_capacity(64);
        let mut add = |name: &str, limit: u32| {
            if limit > 0 {
                let comma = if policy.is_empty() { "" } else { ", " };
                let _ = write!(policy, "{comma}\"{name}\";q={limit};w=60");
            }
        };
        if !self.key.as_ref().is_ok_and(|key| key.kind == KeyKind::Server) {
            add("requests", self.shared.limits.requests());
        }
        if let Ok(key) = &self.key {
            let limits = self.shared.limits.of_game(&key.game);
            add("player", limits.player_events);
            add("game", limits.game_events);
        }
        let state = self
            .remaining
            .map_or_else(String::new, |r| format!("\"{}\";r={};t={}", r.name, r.left, r.reset_ms.div_ceil(1_000)));
        (policy, state)
    }

    fn log(&self, status: StatusCode, took: Duration) {
        let request_id = self.request_id.to_str().unwrap_or_default();
        let (batch_id, code, address, status) = (self.batch_id, self.code, &self.address_text, status.as_u16());
        let game = self.key.as_ref().map_or(0, |key| key.game.id.0);
        let received_at = self.received_at.map_or(0, |at| at.0);
        let took_us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        // A line that the filter drops costs nothing of the budget.
        let admit = |lines: &LogBudget, wanted: bool| if wanted { lines.admit(self.started + took) } else { None };
        // A job's id begins with `<received_at>-<batch_id>`, so these fields lead to it.
        match status {
            202 => tracing::debug!(request_id, %batch_id, received_at, game, status, took_us, "batch queued"),
            _ if status >= 500 || self.fault.is_some() => {
                let Some(left_out) = admit(&self.shared.fault_lines, tracing::enabled!(Level::WARN)) else { return };
                let error = self.fault.as_ref().map(tracing::field::display);
                tracing::warn!(request_id, %batch_id, game, status, code, took_us, left_out, error, "batch not queued");
            }
            429 => tracing::debug!(request_id, %batch_id, game, status, code, address, took_us, "batch over a limit"),
            _ => {
                let Some(left_out) = admit(&self.shared.refusal_lines, tracing::enabled!(Level::INFO)) else { return };
                tracing::info!(request_id, %batch_id, game, status, code, address, took_us, left_out, "batch refused");
            }
        }
    }
}

/// A UUIDv7 of `now`.
fn new_batch_id(now: Micros) -> Uuid {
    let millis = u128::try_from(now.0 / 1_000).unwrap_or(0);
    let random: u128 = rand::random();
    let variable = !(0xF << 76 | 0b11 << 62) & (!0u128 >> 48);
    Uuid::from_u128(millis << 80 | 0x7 << 76 | 0b10 << 62 | random & variable)
}

/// The caller's or a proxy's `X-Request-Id` when it is inert, else the batch id: one id fewer to follow.
fn request_id(headers: &HeaderMap, batch_id: Uuid) -> HeaderValue {
    if let Some(value) = headers.get(REQUEST_ID)
        && value.to_str().is_ok_and(|text| check_identifier(text).is_ok())
    {
        return value.clone();
    }
    let mut buffer = Uuid::encode_buffer();
    let text: &str = batch_id.hyphenated().encode_lower(&mut buffer);
    HeaderValue::from_str(text).unwrap_or(HeaderValue::from_static("-"))
}
