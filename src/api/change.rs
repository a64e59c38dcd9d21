//! Places for changes: how many are at work at once, of all games together and of each one.

use std::collections::HashMap;
use std::ops::Deref;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::http::request::Parts;
use metrics::counter;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::access::whose_key;
use super::body::RawBody;
use super::problem::Problem;
use super::state::ApiState;
use crate::domain::ids::GameId;
use crate::telemetry::metrics::API_LIMITED;

/// Changes at work at once.
const MOST: usize = 32;
/// Of these, by keys of one game: they wait for one another in Postgres, on connections that others need.
const MOST_OF_A_GAME: usize = 4;
/// How long a change waits for its place: a lock in Postgres is given up earlier.
const IN_LINE: Duration = Duration::from_secs(5);
/// Games that are remembered although none of their changes is at work.
const MAX_GAMES: usize = 1_000;

/// All places.
#[derive(Debug)]
pub struct Places {
    all: Arc<Semaphore>,
    of_games: Mutex<HashMap<GameId, Arc<Semaphore>>>,
}

impl Default for Places {
    fn default() -> Self {
        Self { all: Arc::new(Semaphore::new(MOST)), of_games: Mutex::default() }
    }
}

impl Places {
    fn of(&self, game: GameId) -> Arc<Semaphore> {
        let mut games = self.of_games.lock().unwrap_or_else(PoisonError::into_inner);
        if games.len() >= MAX_GAMES {
            games.retain(|_, places| Arc::strong_count(places) > 1);
        }
        Arc::clone(games.entry(game).or_insert_with(|| Arc::new(Semaphore::new(MOST_OF_A_GAME))))
    }

    /// Waits for a place; `game`: whose key asks.
    async fn take(&self, game: Option<GameId>) -> Result<ChangePermit, Problem> {
        let in_line = async {
            let of_game = match game {
                Some(game) => Some(self.of(game).acquire_owned().await.ok()?),
                None => None,
            };
            Some(ChangePermit { _of_game: of_game, _of_all: Arc::clone(&self.all).acquire_owned().await.ok()? })
        };
        if let Ok(Some(change)) = tokio::time::timeout(IN_LINE, in_line).await {
            return Ok(change);
        }
        counter!(API_LIMITED, "role" => "api", "limit" => "changes_at_once").increment(1);
        let detail = "Too many changes are under way, of this game or of all; try again shortly.";
        Err(Problem::unavailable("too_many_changes_at_once", detail, 1))
    }
}

/// A change at work: it has a place for as long as this lives. A handler takes it last, behind everything that its
/// client has to send, as a place must never wait for a client.
#[derive(Debug)]
pub struct ChangePermit {
    _of_game: Option<OwnedSemaphorePermit>,
    _of_all: OwnedSemaphorePermit,
}

impl FromRequestParts<ApiState> for ChangePermit {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &ApiState) -> Result<Self, Problem> {
        let game = whose_key(parts, state)?;
        state.places.take(game).await
    }
}

/// A change at work that has a body, which is read before it has its place.
#[derive(Debug)]
pub struct ChangeBody {
    body: RawBody,
    _change: ChangePermit,
}

impl Deref for ChangeBody {
    type Target = RawBody;

    fn deref(&self) -> &RawBody {
        &self.body
    }
}

impl FromRequest<ApiState> for ChangeBody {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &ApiState) -> Result<Self, Problem> {
        let (parts, body) = request.into_parts();
        let game = whose_key(&parts, state)?;
        let body = RawBody::from_request(Request::from_parts(parts, body), state).await?;
        Ok(Self { body, _change: state.places.take(game).await? })
    }
}
