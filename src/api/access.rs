//! Whose request it is, and what it may touch.
//!
//! A key shows one game and nothing else exists for it: what belongs to another game is `404`. The admin token sees
//! every game and names one with `?game=`.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use axum::extract::{ConnectInfo, FromRequestParts};
use axum::http::StatusCode;
use axum::http::request::Parts;
use subtle::ConstantTimeEq as _;

use super::problem::{Problem, no_such_game};
use super::query;
use super::state::ApiState;
use crate::directory::{GameEntry, KeyKind, hash_key};
use crate::domain::ids::GameId;
use crate::http::client_address::{ClientAddress, client_address};
use crate::http::credentials::{NoCredentials, presented_key};
use crate::services::author::Author;
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

impl Studio {
    /// Who changes something of the game, and within which bounds.
    pub fn author<'a>(&self, state: &'a ApiState) -> Author<'a> {
        Author { actor: self.actor, bounds: Some(&state.bounds) }
    }
}

impl Operator {
    /// For the audit log.
    pub const ACTOR: Actor = Actor::AdminToken;
}

impl FromRequestParts<ApiState> for Reader {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &ApiState) -> Result<Self, Problem> {
        match caller(parts, state)? {
            Caller::Key { game, .. } => Ok(Self(game)),
            Caller::Admin => named_game(parts, state).map(Self),
        }
    }
}

impl FromRequestParts<ApiState> for StudioOrOperator {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &ApiState) -> Result<Self, Problem> {
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
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &ApiState) -> Result<Self, Problem> {
        let StudioOrOperator { game, actor } = StudioOrOperator::from_request_parts(parts, state).await?;
        game.map(|game| Self { game, actor }).ok_or_else(game_needed)
    }
}

impl FromRequestParts<ApiState> for Operator {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &ApiState) -> Result<Self, Problem> {
        match caller(parts, state)? {
            Caller::Admin => Ok(Self),
            Caller::Key { .. } => Err(Problem::new(
                StatusCode::FORBIDDEN,
                "admin_token_required",
                "This needs the operators' admin token; a game's key may not do it.",
            )),
        }
    }
}

fn server_key_needed() -> Problem {
    Problem::new(
        StatusCode::FORBIDDEN,
        "server_key_required",
        "This needs a server key of the game (or the admin token); a client key may not do it.",
    )
}

fn game_needed() -> Problem {
    Problem::bad_request("game_required", "With the admin token, name the game: ?game=<slug>.").at("game")
}

fn named_game(parts: &Parts, state: &ApiState) -> Result<Arc<GameEntry>, Problem> {
    let slug = query::value(parts, "game").ok_or_else(game_needed)?;
    state.directory.load().games.get(slug.as_ref()).cloned().ok_or_else(no_such_game)
}

fn caller(parts: &Parts, state: &ApiState) -> Result<Caller, Problem> {
    let hash = match presented_key(&parts.headers) {
        Ok(key) => hash_key(&key),
        Err(NoCredentials::Missing) => return Err(Problem::key_missing()),
        Err(NoCredentials::Unusable) => return Err(unknown_key(parts, state)),
    };
    if let Some(key) = state.directory.load().keys.get(&hash) {
        return Ok(Caller::Key { id: key.id, kind: key.kind, game: Arc::clone(&key.game) });
    }
    let Some(admin) = &state.admin_token else { return Err(unknown_key(parts, state)) };
    if let Some(refused) = state.guesses.too_many(address(parts, state), now_ms(state)) {
        return Err(refused);
    }
    // Of hashes, and in constant time, so that neither the token's length nor its beginning can be measured.
    if bool::from(hash.ct_eq(admin)) { Ok(Caller::Admin) } else { Err(unknown_key(parts, state)) }
}

/// Of which game's key a request is; `None`: the admin token.
///
/// # Errors
/// It is of nobody.
pub fn whose_key(parts: &Parts, state: &ApiState) -> Result<Option<GameId>, Problem> {
    Ok(match caller(parts, state)? {
        Caller::Key { game, .. } => Some(game.id),
        Caller::Admin => None,
    })
}

fn unknown_key(parts: &Parts, state: &ApiState) -> Problem {
    state.guesses.refuse(address(parts, state), now_ms(state))
}

/// The time in milliseconds.
pub fn now_ms(state: &ApiState) -> i64 {
    state.clock.now().0 / 1_000
}

/// Whose request it is, as limits count it.
pub fn address(parts: &Parts, state: &ApiState) -> ClientAddress {
    let peer =
        parts.extensions.get::<ConnectInfo<SocketAddr>>().map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |c| c.0.ip());
    client_address(peer, &parts.headers, &state.http.trusted_proxies)
}
