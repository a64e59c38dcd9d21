//! Entries of a leaderboard: pages, a standing, around a player, lookup of friends.

use std::sync::Arc;

use axum::extract::{RawQuery, State};
use axum::http::HeaderMap;
use axum::response::Response;

use super::answer::{
    Caching, EntriesAnswer, ExtrasOf, LookupAnswer, StandingAnswer, entries_answer, is_known, respond,
};
use super::boards::board_period;
use super::body::RawBody;
use super::cache::{CachedPage, PageKey};
use super::compression::accepts_gzip;
use super::cursor::{self, Cursor};
use super::encoding::encode_dated;
use super::error::ApiError;
use super::path::Asked;
use super::problem::Problem;
use super::query::{Include, ReadingQuery, WhichPeriod};
use super::reading::Reading;
use super::source::Source;
use super::state::ApiState;
use crate::directory::LeaderboardEntry;
use crate::domain::board::CompiledBoard;
use crate::domain::ids::PlayerId;
use crate::ranking::{BoardPeriod, Direction, SortKey};
use crate::store::periods::StoredPeriod;

/// Entries of a page, unless the client says otherwise.
const DEFAULT_LIMIT: usize = 100;
/// Entries around a player: five on each side.
const DEFAULT_AROUND: usize = 11;
/// Most players of one lookup.
const MAX_LOOKUP: usize = 500;

/// A page of a leaderboard.
#[utoipa::path(
    get, path = "/v1/leaderboards/{slug}/entries", tag = "leaderboards", security(("key" = [])),
    params(
        ("slug" = String, Path, description = "The leaderboard"),
        ("period" = Option<String>, Query, description = "`current` (default), `previous` or a period's id"),
        ("limit" = Option<u16>, Query, minimum = 1, maximum = 1000, description = "Most entries; 100 by default"),
        ("cursor" = Option<String>, Query, description = "`next_cursor` or `prev_cursor` of another page"),
        ("include" = Option<String>, Query, description = "`plays`, `metadata`, separated by a comma"),
    ),
    responses((status = 200, body = EntriesAnswer<'static>), )
)]
pub async fn page(State(state): State<ApiState>, reading: Reading, asked: Asked) -> Result<Response, ApiError> {
    let query = ReadingQuery::parse(asked.query())?;
    let (entry, live) = reading.live()?;
    let seen = state.boards.seen(live.generation.id);
    let (period, from) = place(&state, &reading, live, &query).await?;
    let board = board_period(entry, &period);
    let limit = query.limit.unwrap_or(DEFAULT_LIMIT);
    let key = PageKey { game: reading.game.id, board: (&board).into(), seen, limit, from, include: query.include };
    let page = match state.pages.get(&key).await {
        Some(page) => page,
        // Boxed, so that the future of every request is not as large as that of the few that make a page.
        None => {
            count_extras(&state, &reading, &period, query.include)?;
            Box::pin(make_page(&state, live, &board, &period, key)).await?
        }
    };
    let caching = Caching::new(&state, reading.public);
    if !is_known(&asked.headers, &page.etag)
        && accepts_gzip(&asked.headers)
        && let Some(compressed) = Box::pin(page.gzip()).await
    {
        return Ok(respond(&asked.headers, caching, compressed, &page.etag, true));
    }
    Ok(respond(&asked.headers, caching, page.body.clone(), &page.etag, false))
}

/// Makes a page and keeps it; many who want the same one share one making.
async fn make_page(
    state: &ApiState,
    live: &CompiledBoard,
    board: &BoardPeriod,
    period: &StoredPeriod,
    key: PageKey,
) -> Result<Arc<CachedPage>, ApiError> {
    let (from, limit, include) = (key.from.clone(), key.limit, key.include);
    let make = async {
        let source = state.sources.of(board, period);
        let (direction, key) = from.map_or((Direction::Forward, None), |(direction, key)| (direction, Some(key)));
        let page = source.page(limit, key.as_ref(), direction).await?;
        let as_of = state.clock.now();
        let extras = ExtrasOf::read(state, period, include, page.entries.iter()).await?;
        let slug = live.generation.spec.slug.as_str();
        let answer = entries_answer(slug, board, period, as_of, &page, (&extras, include));
        let (body, etag) = encode_dated(&answer);
        Ok(CachedPage::new(body, etag))
    };
    state.pages.get_or_make(key, make).await
}

/// Which period, and from where in it.
async fn place(
    state: &ApiState,
    reading: &Reading,
    board: &CompiledBoard,
    query: &ReadingQuery<'_>,
) -> Result<(StoredPeriod, Option<(Direction, SortKey)>), ApiError> {
    let Some(text) = &query.cursor else {
        return Ok((period_of(state, reading, board, query.period.unwrap_or_default()).await?, None));
    };
    let cursor = Cursor::decode(text).ok_or_else(cursor::invalid)?;
    // The cursor says which period it is of; a page that was begun before a reset goes on where it was, and one of
    // final standings also after an edit.
    if !state.boards.remembers_cursor(board, &cursor) {
        reading.count(state)?;
    }
    let period = state.boards.of_cursor(board, &cursor).await?.ok_or_else(cursor::invalid)?;
    if let Some(WhichPeriod::Id(id)) = query.period
        && id != period.id
    {
        return Err(cursor::invalid().into());
    }
    Ok((period, Some((cursor.direction, cursor.key))))
}

/// The period that a query names.
async fn period_of(
    state: &ApiState,
    reading: &Reading,
    board: &CompiledBoard,
    which: WhichPeriod,
) -> Result<StoredPeriod, ApiError> {
    if !state.boards.remembers(board, which) {
        reading.count(state)?;
    }
    state.boards.period(board, which).await
}

/// What is asked of Postgres beside the period: what is included, and all of a period that is no longer in Redis.
fn count_extras(state: &ApiState, reading: &Reading, period: &StoredPeriod, include: Include) -> Result<(), Problem> {
    if include.any() || period.closed { reading.count(state) } else { Ok(()) }
}

/// What a request about players of one period stands on.
struct Place<'a> {
    entry: &'a LeaderboardEntry,
    slug: &'a str,
    board: BoardPeriod,
    period: StoredPeriod,
}

impl<'a> Place<'a> {
    async fn of(state: &ApiState, reading: &'a Reading, query: &ReadingQuery<'_>) -> Result<Self, ApiError> {
        let (entry, live) = reading.live()?;
        let period = period_of(state, reading, live, query.period.unwrap_or_default()).await?;
        count_extras(state, reading, &period, query.include)?;
        let board = board_period(entry, &period);
        Ok(Self { entry, slug: entry.spec.slug.as_str(), board, period })
    }

    fn source<'b>(&'b self, state: &'b ApiState) -> Source<'b> {
        debug_assert_eq!(self.entry.tie_policy, self.board.tie_policy);
        state.sources.of(&self.board, &self.period)
    }
}

fn no_entry(player: &PlayerId) -> Problem {
    Problem::not_found("no_entry", format!("The player '{player}' has no entry in this period."))
}

/// One player's standing.
#[utoipa::path(
    get, path = "/v1/leaderboards/{slug}/entries/{player}", tag = "leaderboards", security(("key" = [])),
    params(
        ("slug" = String, Path, description = "The leaderboard"),
        ("player" = String, Path, description = "The player"),
        ("period" = Option<String>, Query, description = "`current` (default), `previous` or a period's id"),
        ("include" = Option<String>, Query, description = "`plays`, `metadata`, separated by a comma"),
    ),
    responses((status = 200, body = StandingAnswer<'static>))
)]
pub async fn standing(State(state): State<ApiState>, reading: Reading, asked: Asked) -> Result<Response, ApiError> {
    let query = ReadingQuery::parse(asked.query())?;
    let place = Place::of(&state, &reading, &query).await?;
    let player = reading.player()?;
    let found = place.source(&state).standing(player.as_str()).await?;
    let as_of = state.clock.now();
    let entry = found.entry.ok_or_else(|| no_entry(&player))?;
    let extras = ExtrasOf::read(&state, &place.period, query.include, std::iter::once(&entry)).await?;
    let answer = StandingAnswer {
        leaderboard: place.slug,
        period: (&place.period).into(),
        as_of,
        version: found.version,
        include_version: extras.version.clone(),
        total: found.total,
        entry: extras.entry(&entry, None, query.include),
    };
    let (body, etag) = encode_dated(&answer);
    Ok(respond(&asked.headers, Caching::new(&state, reading.public), body, &etag, false))
}

/// The entries around a player.
#[utoipa::path(
    get, path = "/v1/leaderboards/{slug}/entries/{player}/around", tag = "leaderboards", security(("key" = [])),
    params(
        ("slug" = String, Path, description = "The leaderboard"),
        ("player" = String, Path, description = "The player"),
        ("period" = Option<String>, Query, description = "`current` (default), `previous` or a period's id"),
        ("limit" = Option<u16>, Query, minimum = 1, maximum = 1000, description = "Most entries; 11 by default"),
        ("include" = Option<String>, Query, description = "`plays`, `metadata`, separated by a comma"),
    ),
    responses((status = 200, body = EntriesAnswer<'static>))
)]
pub async fn around(State(state): State<ApiState>, reading: Reading, asked: Asked) -> Result<Response, ApiError> {
    let query = ReadingQuery::parse(asked.query())?;
    let place = Place::of(&state, &reading, &query).await?;
    let player = reading.player()?;
    let limit = query.limit.unwrap_or(DEFAULT_AROUND);
    let page = place.source(&state).around(player.as_str(), limit).await?;
    let as_of = state.clock.now();
    if page.entries.is_empty() {
        return Err(no_entry(&player).into());
    }
    let extras = ExtrasOf::read(&state, &place.period, query.include, page.entries.iter()).await?;
    let answer = entries_answer(place.slug, &place.board, &place.period, as_of, &page, (&extras, query.include));
    let (body, etag) = encode_dated(&answer);
    Ok(respond(&asked.headers, Caching::new(&state, reading.public), body, &etag, false))
}

/// The players to look up.
#[derive(Debug, serde::Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Lookup {
    /// At most 500.
    #[schema(value_type = Vec<super::openapi::words::Identifier>, max_items = 500)]
    player_ids: Vec<PlayerId>,
}

/// Some players (friends), ranked among themselves and overall.
#[utoipa::path(
    post, path = "/v1/leaderboards/{slug}/entries/lookup", tag = "leaderboards", security(("key" = [])),
    params(
        ("slug" = String, Path, description = "The leaderboard"),
        ("period" = Option<String>, Query, description = "`current` (default), `previous` or a period's id"),
        ("include" = Option<String>, Query, description = "`plays`, `metadata`, separated by a comma"),
    ),
    request_body = Lookup,
    responses((status = 200, body = LookupAnswer<'static>))
)]
pub async fn lookup(
    State(state): State<ApiState>,
    reading: Reading,
    RawQuery(query): RawQuery,
    body: RawBody,
) -> Result<Response, ApiError> {
    let query = ReadingQuery::parse(query.as_deref().unwrap_or_default())?;
    let place = Place::of(&state, &reading, &query).await?;
    let wanted: Lookup = body.json("{\"player_ids\": [at most 500 player ids]}")?;
    if wanted.player_ids.len() > MAX_LOOKUP {
        let detail = format!("At most {MAX_LOOKUP} players at once.");
        return Err(Problem::bad_request("too_many_players", detail).at("/player_ids").into());
    }
    let players: Vec<&str> = wanted.player_ids.iter().map(PlayerId::as_str).collect();
    let found = place.source(&state).lookup(&players).await?;
    let as_of = state.clock.now();
    let extras =
        ExtrasOf::read(&state, &place.period, query.include, found.entries.iter().map(|(_, entry)| entry)).await?;
    let answer = LookupAnswer {
        leaderboard: place.slug,
        period: (&place.period).into(),
        as_of,
        version: found.version,
        include_version: extras.version.clone(),
        total: found.total,
        entries: found.entries.iter().map(|(among, e)| extras.entry(e, Some(*among), query.include)).collect(),
    };
    let (body, etag) = encode_dated(&answer);
    // `304` answers GET only (RFC 9110, 13.1.2).
    Ok(respond(&HeaderMap::new(), Caching::new(&state, reading.public), body, &etag, false))
}
