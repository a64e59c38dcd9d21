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
use super::limits::Remaining;
use super::refuse;
use super::state::Shared;
use crate::directory::{KeyEntry, KeyKind};
use crate::domain::clock::Micros;
use crate::domain::ids::{GameId, check_identifier};
use crate::http::client_address::{ClientAddress, client_address};
use crate::http::problem::Problem;
use crate::queue::enqueue::{AddressCount, Closed, Counted, EnqueueError, EnqueueReply, EnqueueRequest, Enqueued};
use crate::telemetry::log_budget::LogBudget;

const REQUEST_ID: &str = "x-request-id";

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
    address: ClientAddress,
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
            address,
            address_text: address.to_string(),
            counted: exempt,
            remaining: None,
            code: "",
        }
    }

    pub fn now_ms(&self) -> i64 {
        self.now.0 / 1_000
    }

    /// What can be refused before anything is read: a blocked address costs neither a body nor a call to Redis.
    pub fn admit(&mut self) -> Result<KeyEntry, Problem> {
        let (limits, now_ms) = (&self.shared.limits, self.now_ms());
        if !self.counted
            && let Some(for_ms) = limits.denied(self.address, now_ms)
        {
            self.shared.measures.limited("requests", "cache");
            self.counted = true;
            return Err(self.blocked(for_ms));
        }
        if !self.counted && !limits.asks_redis(now_ms) {
            self.counted = true;
            if !limits.allow_locally(self.address, now_ms) {
                self.shared.measures.limited("requests", "local");
                return Err(self.blocked(limits.block_ms()));
            }
        }
        if self.shared.directory.load().version == 0 && self.key.is_err() {
            return Err(refuse::no_directory());
        }
        self.key.clone().map_err(|why| match why {
            Unauthenticated::NoKey => Problem::key_missing(),
            Unauthenticated::UnknownKey => {
                let refusal = self.shared.guesses.refuse(self.address, now_ms);
                if refusal.status == StatusCode::TOO_MANY_REQUESTS {
                    self.shared.measures.limited("guesses", "cache");
                    self.counted = true;
                }
                refusal
            }
        })
    }

    /// The address to count with the enqueue, unless it is exempt or was counted.
    pub fn address_count(&self) -> Option<AddressCount<'_>> {
        let limits = &self.shared.limits;
        (!self.counted).then(|| AddressCount {
            address: &self.address_text,
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
        self.shared.limits.deny(self.address, for_ms, self.now_ms());
        self.blocked(for_ms)
    }

    /// Redis is away, or is not to be filled: the local limiter decides whether this is refused as too much, or as not possible.
    pub fn without_redis(&mut self, otherwise: Problem) -> Problem {
        if std::mem::replace(&mut self.counted, true) || self.shared.limits.allow_locally(self.address, self.now_ms()) {
            return otherwise;
        }
        self.shared.measures.limited("requests", "local");
        let block_ms = self.shared.limits.block_ms();
        self.blocked(block_ms)
    }

    fn blocked(&mut self, for_ms: u64) -> Problem {
        let limit = self.shared.limits.requests();
        self.tell(Remaining { name: "requests", limit, left: 0, reset_ms: for_ms });
        refuse::address_blocked(for_ms, limit)
    }

    /// A request that never came to the enqueue call counts against its address too.
    pub async fn count_refusal(&mut self, problem: Problem) -> Problem {
        if self.counted || problem.status.is_server_error() {
            return problem;
        }
        if !self.shared.limits.asks_redis(self.now_ms()) {
            return self.without_redis(problem);
        }
        let Enqueued { address, reply } = {
            let request = EnqueueRequest {
                game: GameId(0),
                batch_id: self.batch_id,
                address: self.address_count(),
                quotas: &[],
                high: &[],
                low: &[],
                remember: None,
            };
            match self.shared.enqueuer.admission().closed() {
                Some(Closed::Unreachable) => return self.without_redis(problem),
                _ => self.shared.enqueuer.enqueue(&request).await,
            }
        };
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
        let admit = |lines: &LogBudget, wanted: bool| if wanted { lines.admit(self.now) } else { None };
        // A job's id is `<received_at>-<batch_id>-<h|l>`, so these fields lead to it.
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
