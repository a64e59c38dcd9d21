//! The bare handlers that the real ones are held against: the same work with nothing but the work. Run as a process
//! of its own (`scoreline bench-limit`), like the roles.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::serve::ListenerExt;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::BenchError;
use crate::domain::board::Order;
use crate::domain::ranking_key::decode;

/// Where the limit server listens and which Redis it uses.
#[derive(clap::Args, Debug, Clone)]
pub struct LimitArgs {
    /// Its address.
    #[arg(long)]
    pub listen: SocketAddr,
    /// The same Redis that the system uses.
    #[arg(long)]
    pub redis_url: String,
    /// A file whose bytes are the page that it serves.
    #[arg(long)]
    pub page: Option<std::path::PathBuf>,
    /// The sorted set for rank queries.
    #[arg(long, default_value = "bench:rank")]
    pub rank_key: String,
}

struct Bare {
    redis: redis::aio::MultiplexedConnection,
    enqueue: redis::Script,
    around: redis::Script,
    rank_key: String,
    page: Bytes,
}

#[derive(Deserialize)]
#[allow(dead_code, reason = "parsed for the cost of parsing")]
struct BareEvent<'a> {
    event_id: &'a str,
    #[serde(rename = "type")]
    event_type: &'a str,
    player_id: &'a str,
    occurred_at: &'a str,
    session_id: Option<&'a str>,
    schema_version: Option<i32>,
    #[serde(borrow)]
    payload: &'a RawValue,
}

/// Where bare jobs go: a hash, a list and a counter.
const BARE_JOBS: [&str; 3] = ["{bench}:jobs", "{bench}:list", "{bench}:count"];

/// Removes the jobs that the bare handler took, so that they burden no other stage.
///
/// # Errors
/// [`BenchError::Queue`].
pub async fn forget_jobs(redis_url: &str) -> Result<(), BenchError> {
    let forget = async {
        let mut redis = redis::Client::open(redis_url)?.get_multiplexed_async_connection().await?;
        redis::cmd("UNLINK").arg(&BARE_JOBS).exec_async(&mut redis).await
    };
    forget.await.map_err(|e: redis::RedisError| BenchError::Queue(e.to_string()))
}

/// Serves the bare handlers until the process is ended.
#[allow(clippy::print_stderr, reason = "a command's output")]
pub async fn run(args: LimitArgs) -> ExitCode {
    match serve(args).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench-limit: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn serve(args: LimitArgs) -> Result<(), Box<dyn std::error::Error>> {
    let redis = redis::Client::open(args.redis_url)?.get_multiplexed_async_connection().await?;
    let enqueue = redis::Script::new(
        "redis.call('HSET', KEYS[1], ARGV[1], ARGV[2]) redis.call('RPUSH', KEYS[2], ARGV[1])
         return redis.call('INCR', KEYS[3])",
    );
    let around = redis::Script::new(
        "local at = redis.call('ZRANK', KEYS[1], ARGV[1])
         return {at, redis.call('ZCARD', KEYS[1]), redis.call('ZRANGE', KEYS[1], at - 5, at + 4)}",
    );
    let page = args.page.map(std::fs::read).transpose()?.unwrap_or_default();
    let bare = Arc::new(Bare { redis, enqueue, around, rank_key: args.rank_key, page: Bytes::from(page) });
    let router = Router::new()
        .route("/v1/events", post(take_events))
        .route("/page", get(serve_page))
        .route("/rank/{member}", get(serve_rank))
        .route("/around/{member}", get(serve_around))
        .with_state(bare);
    let listener = tokio::net::TcpListener::bind(args.listen).await?.tap_io(|stream| {
        // Without it small answers wait for the client's acknowledgement; the real listener sets it too.
        let _ = stream.set_nodelay(true);
    });
    axum::serve(listener, router).await?;
    Ok(())
}

async fn take_events(State(bare): State<Arc<Bare>>, body: Bytes) -> Response {
    let Ok(events) = serde_json::from_slice::<Vec<BareEvent<'_>>>(&body) else {
        return StatusCode::BAD_REQUEST.into_response();
    };
    let count = events.len();
    let id = uuid::Uuid::new_v4().simple().to_string();
    let mut redis = bare.redis.clone();
    let pushed: redis::RedisResult<i64> =
        bare.enqueue.key(&BARE_JOBS).arg(id).arg(&body[..]).invoke_async(&mut redis).await;
    match pushed {
        Ok(_) => {
            (StatusCode::ACCEPTED, [(header::CONTENT_TYPE, "application/json")], format!("{{\"accepted\":{count}}}"))
                .into_response()
        }
        Err(_) => StatusCode::SERVICE_UNAVAILABLE.into_response(),
    }
}

async fn serve_page(State(bare): State<Arc<Bare>>) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], bare.page.clone()).into_response()
}

async fn serve_rank(
    State(bare): State<Arc<Bare>>,
    axum::extract::Path(member): axum::extract::Path<String>,
) -> Response {
    let Ok(key) = URL_SAFE_NO_PAD.decode(&member) else { return StatusCode::NOT_FOUND.into_response() };
    let mut redis = bare.redis.clone();
    let answer: redis::RedisResult<(Option<i64>, i64)> = redis::pipe()
        .cmd("ZRANK")
        .arg(&bare.rank_key)
        .arg(&key)
        .cmd("ZCARD")
        .arg(&bare.rank_key)
        .query_async(&mut redis)
        .await;
    match answer {
        Ok((Some(rank), total)) => {
            let body = format!("{{\"player_id\":\"{member}\",\"rank\":{},\"total\":{total}}}", rank + 1);
            ([(header::CONTENT_TYPE, "application/json")], body).into_response()
        }
        Ok(_) => StatusCode::NOT_FOUND.into_response(),
        Err(_) => StatusCode::SERVICE_UNAVAILABLE.into_response(),
    }
}

/// Ten entries as `/page` has them, of which only the player is not made up.
#[derive(serde::Serialize)]
struct BareEntry<'a> {
    rank: i64,
    player_id: &'a str,
    score: i64,
    subscore: i64,
    reached_at: &'a str,
}

async fn serve_around(
    State(bare): State<Arc<Bare>>,
    axum::extract::Path(member): axum::extract::Path<String>,
) -> Response {
    let Ok(key) = URL_SAFE_NO_PAD.decode(member) else { return StatusCode::NOT_FOUND.into_response() };
    let mut redis = bare.redis.clone();
    let found: redis::RedisResult<(i64, i64, Vec<Vec<u8>>)> =
        bare.around.key(&bare.rank_key).arg(key).invoke_async(&mut redis).await;
    let Ok((at, total, members)) = found else { return StatusCode::SERVICE_UNAVAILABLE.into_response() };
    let entry = |(n, member): (i64, &Vec<u8>)| -> Vec<u8> {
        let entry = BareEntry {
            rank: at + n,
            player_id: decode(member, Order::Descending).map_or("", |(_, player_id)| player_id),
            score: total,
            subscore: 0,
            reached_at: "2026-11-21T10:00:00.123456Z",
        };
        serde_json::to_vec(&entry).unwrap_or_default()
    };
    let mut body = format!("{{\"leaderboard\":\"global\",\"version\":1,\"total\":{total},\"entries\":[").into_bytes();
    for part in (0..).zip(&members).map(entry) {
        body.extend_from_slice(&part);
        body.push(b',');
    }
    body.pop();
    body.extend_from_slice(b"]}");
    ([(header::CONTENT_TYPE, "application/json")], body).into_response()
}
