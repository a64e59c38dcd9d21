//! Serving a router on a listener: caps, deadlines, panics, and a stop that lets requests in hand finish.
//!
//! `axum::serve` has no header timeout and no caps, so hyper's connection builder is driven here.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes, HttpBody};
use axum::extract::ConnectInfo;
use axum::http::{HeaderValue, Request, Response, header};
use axum::response::IntoResponse as _;
use futures_util::FutureExt as _;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use super::connection::{Deadlines, Phase, Timed};
use super::connections::{Connections, Full, Permit};
use super::problem::Problem;
use super::settings::HttpConfig;
use super::unread::{Lent, Unread, linger};
use crate::domain::clock::Clock;
use crate::runtime::lifecycle::Lifecycle;
use crate::telemetry::metrics::{HTTP_CONNECTIONS, HTTP_CONNECTIONS_REFUSED};

/// How long to wait after `accept` failed for want of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Idle connections have this long when the listener is crowded.
const CROWDED_IDLE: Duration = Duration::from_secs(1);
/// Refused connections that are read on for a while, so that their answer is seen; others are closed at once.
const MAX_LINGERING: usize = 64;
/// Headers of one request, in all.
const MAX_HEADER_BYTES: usize = 32 * 1024;

/// What a listener allows.
#[derive(Debug, Clone)]
pub struct ServerConfig {
    /// The label of its metrics.
    pub role: &'static str,
    /// How long a peer may take.
    pub deadlines: Deadlines,
    /// Most open connections.
    pub max_connections: usize,
    /// Most open connections of one address.
    pub max_connections_per_address: usize,
    /// Peers without a cap of their own.
    pub trusted_proxies: Vec<ipnet::IpNet>,
    /// How long the listener stays open after a soft stop.
    pub drain: Duration,
}

impl ServerConfig {
    /// A public listener.
    pub fn public(role: &'static str, config: &HttpConfig, drain: Duration) -> Self {
        Self {
            role,
            deadlines: Deadlines {
                header: Duration::from_secs(config.http_header_timeout_seconds),
                idle: Duration::from_secs(config.http_idle_seconds),
                write: Duration::from_secs(config.http_body_timeout_seconds),
            },
            max_connections: config.http_max_connections,
            max_connections_per_address: config.http_max_connections_per_address,
            trusted_proxies: config.trusted_proxies.clone(),
            drain,
        }
    }

    /// An operations listener: few clients, all of them ours.
    pub fn operations(role: &'static str) -> Self {
        let time = Duration::from_secs(10);
        Self {
            role,
            deadlines: Deadlines { header: time, idle: Duration::from_secs(120), write: time },
            max_connections: 64,
            max_connections_per_address: 64,
            trusted_proxies: Vec::new(),
            // Open to the end, so that a stop can be watched.
            drain: Duration::MAX,
        }
    }
}

struct Shared {
    config: ServerConfig,
    connections: Arc<Connections>,
    lifecycle: Lifecycle,
    /// Cancelled when the listener closes.
    closing: CancellationToken,
    router: Router,
    open_gauge: metrics::Gauge,
    refused: Arc<Semaphore>,
    clock: Clock,
}

/// Serves `router` until `lifecycle` says stop. Each connection is a task of `lifecycle.tasks`: at a soft stop it
/// finishes the request in hand, at a hard stop it ends. Handlers find the peer as `ConnectInfo<SocketAddr>`. `clock`
/// dates the answers to refused connections.
pub async fn serve(listener: TcpListener, router: Router, config: ServerConfig, clock: Clock, lifecycle: Lifecycle) {
    let connections =
        Connections::new(config.max_connections, config.max_connections_per_address, config.trusted_proxies.clone());
    let open_gauge = metrics::gauge!(HTTP_CONNECTIONS, "role" => config.role);
    let closing = CancellationToken::new();
    let _closed = closing.clone().drop_guard();
    let shared = Arc::new(Shared {
        config,
        connections,
        lifecycle: lifecycle.clone(),
        closing,
        router,
        open_gauge,
        refused: Arc::new(Semaphore::new(MAX_LINGERING)),
        clock,
    });
    let mut drained = pin!(drained(&shared));
    loop {
        let accepted = tokio::select! {
            biased;
            () = &mut drained => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => take(&shared, stream, peer),
            Err(error) if is_peers_fault(&error) => {}
            Err(error) => {
                // EMFILE, ENFILE, ENOBUFS, ENOMEM: trying again at once would spin.
                tracing::warn!(%error, "cannot accept connections");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Resolves when the listener is to close, and with it the connections that wait for a request, whenever they were
/// opened: some time after the soft stop, at once at the hard one. Until then a client that has not heard of the stop
/// is answered, and told to come elsewhere next time.
async fn drained(shared: &Shared) {
    let lifecycle = &shared.lifecycle;
    lifecycle.soft.cancelled().await;
    if !shared.config.drain.is_zero() {
        let _ = tokio::time::timeout(shared.config.drain, lifecycle.hard.cancelled()).await;
    }
}

fn is_peers_fault(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}

fn take(shared: &Arc<Shared>, stream: TcpStream, peer: SocketAddr) {
    match shared.connections.admit(peer.ip()) {
        Ok(permit) => {
            let _ = stream.set_nodelay(true);
            shared.open_gauge.increment(1.0);
            shared.lifecycle.tasks.spawn(drive(Arc::clone(shared), stream, peer, permit));
        }
        Err(full) => refuse(shared, stream, full),
    }
}

/// Tells a client why, as far as its socket takes it at once; the listener waits for nobody.
fn refuse(shared: &Shared, mut stream: TcpStream, full: Full) {
    let reason = match full {
        Full::Listener => "listener",
        Full::Address => "address",
    };
    metrics::counter!(HTTP_CONNECTIONS_REFUSED, "role" => shared.config.role, "reason" => reason).increment(1);
    let _ = stream.try_write(&Problem::too_many_connections().raw_answer(shared.clock.now()));
    if let Ok(permit) = Arc::clone(&shared.refused).try_acquire_owned() {
        let hard = shared.lifecycle.hard.clone();
        tokio::spawn(async move {
            let _ = stream.shutdown().await;
            let _ = hard.run_until_cancelled(linger(stream)).await;
            drop(permit);
        });
    }
}

async fn drive(shared: Arc<Shared>, stream: TcpStream, peer: SocketAddr, permit: Permit) {
    let deadlines = shared.config.deadlines;
    let phase = Phase::idle(deadlines.header.min(deadlines.idle));
    let io = TokioIo::new(Timed::new(stream, Arc::clone(&phase), deadlines));
    let (unread, cut_short) = (Arc::<Unread>::default(), AtomicBool::new(false));
    let service = hyper::service::service_fn(|request: Request<Incoming>| {
        phase.begin_request();
        let (router, phase, shared) = (shared.router.clone(), Arc::clone(&phase), Arc::clone(&shared));
        let (unread, cut_short) = (Arc::clone(&unread), &cut_short);
        async move {
            let mut response = answer(router, unread.lend(request), peer, phase, shared).await;
            if !settle(&unread, &mut response).await {
                cut_short.store(true, Ordering::Relaxed);
            }
            Ok::<_, Infallible>(response)
        }
    });
    let mut connection = http1::Builder::new()
        .max_header_size(MAX_HEADER_BYTES)
        .max_buf_size(2 * MAX_HEADER_BYTES)
        .serve_connection(io, service);
    let ended = tokio::select! {
        // In this order: what a connection has in hand goes on first, and no dice are thrown at every poll.
        biased;
        ended = &mut connection => ended,
        () = shared.closing.cancelled() => {
            Pin::new(&mut connection).graceful_shutdown();
            tokio::select! {
                ended = &mut connection => ended,
                () = shared.lifecycle.hard.cancelled() => Ok(()),
            }
        }
    };
    match ended {
        Err(error) => tracing::debug!(%peer, %error, "connection ended"),
        Ok(()) if cut_short.load(Ordering::Relaxed) => {
            let stream = connection.into_parts().io.into_inner();
            let _ = shared.lifecycle.hard.run_until_cancelled(linger(stream)).await;
        }
        Ok(()) => {}
    }
    shared.open_gauge.decrement(1.0);
    drop(permit);
}

/// Sees to what the handler has left of the body: it is read off, or the answer says that the connection closes. Every
/// answer comes through here, however early it was made. Whether the body is at its end.
async fn settle(unread: &Unread, response: &mut Response<Answer>) -> bool {
    let headers = response.headers_mut();
    let closes = headers.get(header::CONNECTION).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"close"));
    if closes {
        return !unread.forget();
    }
    let whole = unread.read_off().await;
    if !whole {
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    whole
}

async fn answer(
    router: Router,
    request: Request<Lent>,
    peer: SocketAddr,
    phase: Arc<Phase>,
    shared: Arc<Shared>,
) -> Response<Answer> {
    let mut request = request.map(Body::new);
    request.extensions_mut().insert(ConnectInfo(peer));
    let response = match AssertUnwindSafe(router.oneshot(request)).catch_unwind().await {
        Ok(Ok(response)) => response,
        Ok(Err(never)) => match never {},
        // The panic itself was logged where it happened (`telemetry::logs`).
        Err(_) => Problem::internal_error().into_response(),
    };
    let leaving = shared.lifecycle.soft.is_cancelled() && shared.config.drain != Duration::MAX;
    let mut response = response.map(|body| Answer { body, phase, shared });
    if leaving {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// An answer's body, which notices when it was handed over in full (or dropped): then the connection is idle.
struct Answer {
    body: Body,
    phase: Arc<Phase>,
    shared: Arc<Shared>,
}

impl HttpBody for Answer {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<hyper::body::Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> hyper::body::SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        let idle = self.shared.config.deadlines.idle;
        if self.shared.connections.crowded() {
            self.phase.end_request_soon(idle.min(CROWDED_IDLE));
        } else {
            self.phase.end_request(idle);
        }
    }
}
