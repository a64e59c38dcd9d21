//! Whose request it is, and what it may touch.
//!
//! A key shows one game and nothing else exists for it: what belongs to another game is `404`. The admin token sees
//! every game and names one with `?game=`.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use axum::extract::{ConnectInfo, FromRequestParts};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode, header};
use base64::Engine as _;
use subtle::ConstantTimeEq as _;

use super::guesses::WINDOW_SECONDS;
use super::query;
use super::refusal::Refusal;
use super::state::ApiState;
use crate::directory::{GameEntry, KeyKind, hash_key};
use crate::store::audit_log::Actor;

/// A key of a game (or the admin token with `?game=`): may read that game's leaderboards.
#[derive(Debug, Clone)]
pub struct Reader(pub Arc<GameEntry>);

/// A server key of a game (or the admin token with `?game=`): may do everything of that game.
#[derive(Debug, Clone)]
pub struct Studio {
    /// The game.
    pub game: Arc<GameEntry>,
    /// For the audit log.
    pub actor: Actor,
}

/// A server key (its game) or the admin token (`game`: what `?game=` names, else `None`: all).
#[derive(Debug, Clone)]
pub struct StudioOrOperator {
    /// To which game everything is restricted.
    pub game: Option<Arc<GameEntry>>,
    /// For the audit log.
    pub actor: Actor,
}

/// The admin token.
#[derive(Debug, Clone, Copy)]
pub struct Operator;

enum Caller {
    Key { id: i32, kind: KeyKind, game: Arc<GameEntry> },
    Admin,
}

impl Operator {
    /// For the audit log.
    pub const ACTOR: Actor = Actor::AdminToken;
}

impl FromRequestParts<ApiState> for Reader {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &ApiState) -> Result<Self, Refusal> {
        match caller(parts, state)? {
            Caller::Key { game, .. } => Ok(Self(game)),
            Caller::Admin => named_game(parts, state).map(Self),
        }
    }
}

impl FromRequestParts<ApiState> for StudioOrOperator {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &ApiState) -> Result<Self, Refusal> {
        match caller(parts, state)? {
            Caller::Key { id, kind: KeyKind::Server, game } => {
                Ok(Self { game: Some(game), actor: Actor::ServerKey(id) })
            }
            Caller::Key { .. } => Err(server_key_needed()),
            Caller::Admin if query::value(parts, "game").is_none() => Ok(Self { game: None, actor: Actor::AdminToken }),
            Caller::Admin => Ok(Self { game: Some(named_game(parts, state)?), actor: Actor::AdminToken }),
        }
    }
}

impl FromRequestParts<ApiState> for Studio {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &ApiState) -> Result<Self, Refusal> {
        let StudioOrOperator { game, actor } = StudioOrOperator::from_request_parts(parts, state).await?;
        game.map(|game| Self { game, actor }).ok_or_else(game_needed)
    }
}

impl FromRequestParts<ApiState> for Operator {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &ApiState) -> Result<Self, Refusal> {
        match caller(parts, state)? {
            Caller::Admin => Ok(Self),
            Caller::Key { .. } => Err(Refusal::new(
                StatusCode::FORBIDDEN,
                "admin_token_required",
                "This needs the operators' admin token; a game's key may not do it.",
            )),
        }
    }
}

fn server_key_needed() -> Refusal {
    Refusal::new(
        StatusCode::FORBIDDEN,
        "server_key_required",
        "This needs a server key of the game (or the admin token); a client key may not do it.",
    )
}

fn game_needed() -> Refusal {
    Refusal::bad_request("game_required", "With the admin token, name the game: ?game=<slug>.").at("game")
}

fn named_game(parts: &Parts, state: &ApiState) -> Result<Arc<GameEntry>, Refusal> {
    let slug = query::value(parts, "game").ok_or_else(game_needed)?;
    state.directory.load().games.get(slug.as_ref()).cloned().ok_or_else(no_such_game)
}

/// `404` for a game that does not exist, or not for this caller.
pub fn no_such_game() -> Refusal {
    Refusal::not_found("game_not_found", "There is no such game.")
}

fn caller(parts: &Parts, state: &ApiState) -> Result<Caller, Refusal> {
    let Some(header) = parts.headers.get(header::AUTHORIZATION) else {
        return Err(Refusal::new(
            StatusCode::UNAUTHORIZED,
            "key_required",
            "Send a key of the game: 'Authorization: Bearer <key>'.",
        ));
    };
    let hash = match presented(header.as_bytes()) {
        Some(Presented::Bearer(key)) => hash_key(key),
        Some(Presented::Basic(key)) => hash_key(&key),
        None => return Err(unknown_key(parts, state)),
    };
    if let Some(key) = state.directory.load().keys.get(&hash) {
        return Ok(Caller::Key { id: key.id, kind: key.kind, game: Arc::clone(&key.game) });
    }
    let Some(admin) = &state.admin_token else { return Err(unknown_key(parts, state)) };
    if state.guesses.too_many(client_address(parts, state), state.clock.now()) {
        return Err(too_many_guesses());
    }
    // Of hashes, and in constant time, so that neither the token's length nor its beginning can be measured.
    if bool::from(hash.ct_eq(admin)) { Ok(Caller::Admin) } else { Err(unknown_key(parts, state)) }
}

enum Presented<'a> {
    Bearer(&'a str),
    Basic(String),
}

/// The key in `Bearer KEY`, or the user name of HTTP Basic (the Segment convention).
fn presented(header: &[u8]) -> Option<Presented<'_>> {
    let text = std::str::from_utf8(header).ok()?;
    let (scheme, rest) = text.split_once(' ')?;
    let rest = rest.trim();
    if scheme.eq_ignore_ascii_case("bearer") {
        return (!rest.is_empty()).then_some(Presented::Bearer(rest));
    }
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let decoded = base64::engine::general_purpose::STANDARD.decode(rest).ok()?;
    let decoded = String::from_utf8(decoded).ok()?;
    let user = decoded.split(':').next().unwrap_or_default();
    (!user.is_empty()).then(|| Presented::Basic(user.to_owned()))
}

fn unknown_key(parts: &Parts, state: &ApiState) -> Refusal {
    let (address, now) = (client_address(parts, state), state.clock.now());
    if state.guesses.too_many(address, now) {
        return too_many_guesses();
    }
    state.guesses.failed(address, now);
    Refusal::new(StatusCode::UNAUTHORIZED, "key_unknown", "This key is unknown or was revoked.")
}

fn too_many_guesses() -> Refusal {
    Refusal::new(
        StatusCode::TOO_MANY_REQUESTS,
        "too_many_unknown_keys",
        "Too many unknown keys from this address; wait before trying again.",
    )
    .retry_after(WINDOW_SECONDS)
}

/// The peer, or the first untrusted hop from the right of `X-Forwarded-For` where the peer is a trusted proxy.
fn client_address(parts: &Parts, state: &ApiState) -> IpAddr {
    let peer =
        parts.extensions.get::<ConnectInfo<SocketAddr>>().map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |c| c.0.ip());
    behind_proxies(peer, &parts.headers, &state.http.trusted_proxies)
}

fn behind_proxies(peer: IpAddr, headers: &HeaderMap, trusted: &[ipnet::IpNet]) -> IpAddr {
    let is_trusted = |a: &IpAddr| trusted.iter().any(|net| net.contains(&a.to_canonical()));
    let mut address = peer;
    let values: Vec<&str> = headers.get_all("x-forwarded-for").iter().filter_map(|v| v.to_str().ok()).collect();
    for hop in values.iter().rev().flat_map(|v| v.rsplit(',')) {
        if !is_trusted(&address) {
            break;
        }
        let Ok(next) = hop.trim().parse() else { break };
        address = next;
    }
    address
}
