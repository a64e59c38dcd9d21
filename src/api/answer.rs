//! The shapes of reading answers, and their headers.

use std::collections::HashMap;

use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::Response;
use bytes::Bytes;
use serde::Serialize;
use serde_json::value::RawValue;
use xxhash_rust::xxh3::Xxh3;

use super::cursor::{Cursor, CursorPeriod};
use super::error::ApiError;
use super::query::Include;
use super::state::ApiState;
use crate::domain::clock::Micros;
use crate::ranking::{BoardPeriod, Direction, Page, RankedEntry, SortKey};
use crate::store::periods::StoredPeriod;
use crate::store::standings::Extras;

/// Most headers of an answer.
const MOST_HEADERS: usize = 12;

/// A period.
#[derive(Debug, Clone, Copy, Serialize, utoipa::ToSchema)]
pub struct PeriodAnswer {
    /// By which `?period=` names it.
    pub id: i64,
    /// Inclusive, RFC 3339.
    #[schema(value_type = String, format = DateTime)]
    pub starts_at: Micros,
    /// Exclusive, RFC 3339; null: never.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub ends_at: Option<Micros>,
}

impl From<&StoredPeriod> for PeriodAnswer {
    fn from(stored: &StoredPeriod) -> Self {
        Self { id: stored.id, starts_at: stored.period.starts_at, ends_at: stored.period.ends_at }
    }
}

/// An entry with its rank.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct EntryAnswer<'a> {
    /// From 1, by the leaderboard's tie policy.
    pub rank: u64,
    /// Its rank among the players that were asked for (lookup only).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rank_among: Option<u64>,
    /// Whose it is.
    pub player_id: &'a str,
    /// The score.
    pub score: i64,
    /// The first tie-break.
    pub subscore: i64,
    /// When it was reached, RFC 3339.
    #[schema(value_type = String, format = DateTime)]
    pub reached_at: Micros,
    /// How many events counted (`include=plays`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub plays: Option<i64>,
    /// The deciding event's metadata (`include=metadata`).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = serde_json::Value, required = false)]
    pub metadata: Option<&'a RawValue>,
}

/// A part of a leaderboard.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct EntriesAnswer<'a> {
    /// Which.
    pub leaderboard: &'a str,
    /// Which period of it.
    pub period: PeriodAnswer,
    /// When it was read, RFC 3339.
    #[schema(value_type = String, format = DateTime)]
    pub as_of: Micros,
    /// Answers of equal version never disagree; about what `include` adds, those of equal `include_version` too.
    pub version: i64,
    /// Of what `include` adds, which changes without the leaderboard; absent without `include`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false)]
    pub include_version: Option<String>,
    /// Entries in the period.
    pub total: u64,
    /// Best first.
    pub entries: Vec<EntryAnswer<'a>>,
    /// For the entries that follow; null at the end.
    pub next_cursor: Option<String>,
    /// For the entries before; null at the beginning.
    pub prev_cursor: Option<String>,
}

/// One player's standing.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct StandingAnswer<'a> {
    /// Which leaderboard.
    pub leaderboard: &'a str,
    /// Which period of it.
    pub period: PeriodAnswer,
    /// When it was read, RFC 3339.
    #[schema(value_type = String, format = DateTime)]
    pub as_of: Micros,
    /// Answers of equal version never disagree; about what `include` adds, those of equal `include_version` too.
    pub version: i64,
    /// Of what `include` adds, which changes without the leaderboard; absent without `include`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false)]
    pub include_version: Option<String>,
    /// Entries in the period.
    pub total: u64,
    /// The player's entry.
    pub entry: EntryAnswer<'a>,
}

/// Some players.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct LookupAnswer<'a> {
    /// Which leaderboard.
    pub leaderboard: &'a str,
    /// Which period of it.
    pub period: PeriodAnswer,
    /// When it was read, RFC 3339.
    #[schema(value_type = String, format = DateTime)]
    pub as_of: Micros,
    /// Answers of equal version never disagree; about what `include` adds, those of equal `include_version` too.
    pub version: i64,
    /// Of what `include` adds, which changes without the leaderboard; absent without `include`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false)]
    pub include_version: Option<String>,
    /// Entries in the period.
    pub total: u64,
    /// Best first; who has no entry is absent.
    pub entries: Vec<EntryAnswer<'a>>,
}

/// Plays and metadata by player, for the entries that were asked for.
#[derive(Debug, Default)]
pub struct ExtrasOf {
    of: HashMap<String, (i64, Option<Box<RawValue>>)>,
    /// What they say, in short: the same in every process.
    pub version: Option<String>,
}

impl ExtrasOf {
    /// Asks Postgres, if anything was asked for.
    ///
    /// # Errors
    /// `503` when Postgres is away.
    pub async fn read(
        state: &ApiState,
        period: &StoredPeriod,
        include: Include,
        entries: impl Iterator<Item = &RankedEntry>,
    ) -> Result<Self, ApiError> {
        if !include.any() {
            return Ok(Self::default());
        }
        let players: Vec<&str> = entries.map(RankedEntry::player_id).collect();
        Box::pin(Self::ask(state, period, &players, include)).await
    }

    async fn ask(
        state: &ApiState,
        period: &StoredPeriod,
        players: &[&str],
        include: Include,
    ) -> Result<Self, ApiError> {
        let read = |pool| crate::store::standings::extras(pool, period.id, period.closed, players);
        let (history, replica) = (&state.history, state.history.replica_for(period).await);
        let found = history.either(replica.map(read), read(history.primary())).await?;
        let keep = |Extras { plays, metadata }| (plays, metadata.and_then(|m| RawValue::from_string(m).ok()));
        let of = found.into_iter().map(|(player, extras)| (player, keep(extras))).collect();
        let version = Some(version_of(&of, players, include));
        Ok(Self { of, version })
    }

    /// An entry as answered.
    pub fn entry<'a>(&'a self, ranked: &'a RankedEntry, among: Option<u64>, include: Include) -> EntryAnswer<'a> {
        let player_id = ranked.player_id();
        let extras = self.of.get(player_id);
        EntryAnswer {
            rank: ranked.rank,
            rank_among: among,
            player_id,
            score: ranked.standing.score,
            subscore: ranked.standing.subscore,
            reached_at: ranked.standing.reached_at,
            plays: extras.filter(|_| include.plays).map(|(plays, _)| *plays),
            metadata: extras.filter(|_| include.metadata).and_then(|(_, metadata)| metadata.as_deref()),
        }
    }
}

fn version_of(of: &HashMap<String, (i64, Option<Box<RawValue>>)>, players: &[&str], include: Include) -> String {
    let mut hash = Xxh3::new();
    for (plays, metadata) in players.iter().filter_map(|player| of.get(*player)) {
        if include.plays {
            hash.update(&plays.to_le_bytes());
        }
        let metadata = metadata.as_deref().filter(|_| include.metadata).map_or("", RawValue::get);
        hash.update(&metadata.len().to_le_bytes());
        hash.update(metadata.as_bytes());
    }
    format!("{:032x}", hash.digest128())
}

/// A cursor of a page.
pub fn cursor(board: &BoardPeriod, direction: Direction, key: Option<&SortKey>) -> Option<String> {
    let (generation, period) = (board.generation, CursorPeriod::Named(board.period));
    key.map(|key| Cursor { generation, period, direction, key: key.clone() }.encode())
}

/// A page as answered.
pub fn entries_answer<'a>(
    leaderboard: &'a str,
    board: &BoardPeriod,
    period: &StoredPeriod,
    as_of: Micros,
    page: &'a Page,
    extras: (&'a ExtrasOf, Include),
) -> EntriesAnswer<'a> {
    EntriesAnswer {
        leaderboard,
        period: period.into(),
        as_of,
        version: page.version,
        include_version: extras.0.version.clone(),
        total: page.total,
        entries: page.entries.iter().map(|e| extras.0.entry(e, None, extras.1)).collect(),
        next_cursor: cursor(board, Direction::Forward, page.next.as_ref()),
        prev_cursor: cursor(board, Direction::Backward, page.previous.as_ref()),
    }
}

/// Whose caches may keep an answer.
#[derive(Debug, Clone)]
pub struct Caching {
    control: HeaderValue,
    vary: HeaderValue,
}

impl Caching {
    /// Of a reading route. Shared caches may keep public ones alone (docs/rules.md#only-public-pages-are-shared).
    pub fn new(state: &ApiState, public: bool) -> Self {
        if public {
            let vary = HeaderValue::from_static("accept-encoding");
            return Self { control: state.public_cache_control.clone(), vary };
        }
        Self {
            control: HeaderValue::from_static("private, no-cache"),
            vary: HeaderValue::from_static("authorization, accept-encoding"),
        }
    }
}

/// The response: the bytes, or `304` when the client has them already.
pub fn respond(request: &HeaderMap, caching: Caching, body: Bytes, etag: &HeaderValue, gzipped: bool) -> Response {
    let known = is_known(request, etag);
    let mut response = Response::new(if known { Body::empty() } else { Body::from(body) });
    // With those that every answer gets, so that the table does not grow on the way.
    let mut headers = HeaderMap::with_capacity(MOST_HEADERS);
    if known {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
    } else {
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if gzipped {
            headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        }
    }
    headers.insert(header::ETAG, etag.clone());
    headers.insert(header::CACHE_CONTROL, caching.control);
    headers.insert(header::VARY, caching.vary);
    *response.headers_mut() = headers;
    response
}

/// Whether the client has what this tag stands for.
pub fn is_known(request: &HeaderMap, etag: &HeaderValue) -> bool {
    request.get_all(header::IF_NONE_MATCH).iter().any(|given| matches(given, etag))
}

fn matches(given: &HeaderValue, etag: &HeaderValue) -> bool {
    let (Ok(given), Ok(etag)) = (given.to_str(), etag.to_str()) else { return false };
    fn opaque(tag: &str) -> &str {
        tag.trim().trim_start_matches("W/")
    }
    given.split(',').any(|tag| tag.trim() == "*" || opaque(tag) == opaque(etag))
}
