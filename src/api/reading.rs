//! What a reading request is about: a game, and the leaderboard and the player that its path names there.

use std::sync::Arc;

use axum::extract::{FromRequestParts, RawPathParams};
use axum::http::request::Parts;

use super::access::{self, Reader};
use super::path;
use super::problem::{Problem, no_such_game, rebuilding};
use super::state::ApiState;
use crate::directory::{GameEntry, LeaderboardEntry};
use crate::domain::board::CompiledBoard;
use crate::domain::ids::PlayerId;
use crate::http::client_address::ClientAddress;

/// A request of a reading route: a game, and what the path names in it.
#[derive(Debug)]
pub struct Reading {
    /// The game.
    pub game: Arc<GameEntry>,
    /// Whether it came without a key, under `/v1/public/{game}`.
    pub public: bool,
    path: RawPathParams,
    /// Of one without a key.
    address: Option<ClientAddress>,
}

impl FromRequestParts<ApiState> for Reading {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &ApiState) -> Result<Self, Problem> {
        let path = RawPathParams::from_request_parts(parts, state).await.map_err(|_| path::unreadable())?;
        if let Some(slug) = named(&path, "game") {
            let game = state.directory.load().games.get(slug).cloned().ok_or_else(no_such_game)?;
            return Ok(Self { game, public: true, path, address: Some(access::address(parts, state)) });
        }
        let Reader(game) = Reader::from_request_parts(parts, state).await?;
        Ok(Self { game, public: false, path, address: None })
    }
}

fn named<'a>(path: &'a RawPathParams, part: &str) -> Option<&'a str> {
    path.iter().find(|(name, _)| *name == part).map(|(_, value)| value)
}

impl Reading {
    /// To be called before Postgres is asked for something that no cache has.
    ///
    /// # Errors
    /// `429 too_many_reads` for a caller without a key who asked too much.
    pub fn count(&self, state: &ApiState) -> Result<(), Problem> {
        self.address.map_or(Ok(()), |address| state.public_reads.count(address, access::now_ms(state)))
    }

    /// The leaderboard that the path names. A private board answers 404 without a key, so that its existence does not
    /// leak.
    ///
    /// # Errors
    /// `404 leaderboard_not_found`.
    pub fn leaderboard(&self) -> Result<&LeaderboardEntry, Problem> {
        let slug = named(&self.path, "slug").unwrap_or_default();
        let visible = self.game.leaderboards.get(slug).filter(|entry| entry.public || !self.public);
        visible.ok_or_else(|| {
            // It is there, and a newer api shows it.
            if !self.public && self.game.unreadable.contains(slug) {
                return rebuilding();
            }
            Problem::not_found("leaderboard_not_found", "There is no such leaderboard.")
        })
    }

    /// What players see of it.
    ///
    /// # Errors
    /// `404`, or `503 leaderboard_rebuilding` while its first generation is computed.
    pub fn live(&self) -> Result<(&LeaderboardEntry, &Arc<CompiledBoard>), Problem> {
        let entry = self.leaderboard()?;
        entry.live.as_ref().map(|live| (entry, live)).ok_or_else(rebuilding)
    }

    /// The player that the path names.
    ///
    /// # Errors
    /// `400 player_id_invalid`.
    pub fn player(&self) -> Result<PlayerId, Problem> {
        // The route without a parameter is `…/entries/lookup`: a player may be called that.
        PlayerId::parse(named(&self.path, "player").unwrap_or("lookup")).map_err(|problem| {
            Problem::bad_request("player_id_invalid", format!("A player id {problem}.")).at("player_id")
        })
    }
}
