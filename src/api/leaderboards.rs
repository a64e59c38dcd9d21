//! Leaderboards: the list, one's definition, its periods.

use axum::extract::State;
use axum::response::Response;
use serde::Serialize;

use super::answer::{Caching, PeriodAnswer, respond};
use super::boards::board_period;
use super::encoding::encode;
use super::error::ApiError;
use super::path::Asked;
use super::query::{ReadingQuery, WhichPeriod};
use super::reading::Reading;
use super::state::ApiState;
use crate::directory::LeaderboardEntry;
use crate::domain::board::LeaderboardSpec;
use crate::domain::clock::Micros;
use crate::ranking::Direction;
use crate::store::period_closing::{self, ClosingNote};
use crate::store::periods;

/// Periods of one page of the archive.
const DEFAULT_PERIODS: usize = 100;

/// Whether a leaderboard can be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum BoardStatus {
    /// Yes.
    Live,
    /// Yes, by its old definition; a new one is being computed.
    Recomputing,
    /// Not yet: its first computation is under way.
    Building,
}

/// A leaderboard in the list.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct LeaderboardSummary<'a> {
    /// In URLs.
    slug: &'a str,
    /// For people.
    name: &'a str,
    /// Readable without a key.
    public: bool,
    /// Whether it can be read.
    status: BoardStatus,
    /// What counts and how it is shown.
    #[schema(value_type = super::openapi::words::LeaderboardDefinition)]
    definition: &'a LeaderboardSpec,
}

impl<'a> From<&'a LeaderboardEntry> for LeaderboardSummary<'a> {
    fn from(entry: &'a LeaderboardEntry) -> Self {
        let status = match (&entry.live, entry.building) {
            (Some(_), true) => BoardStatus::Recomputing,
            (Some(_), false) => BoardStatus::Live,
            (None, _) => BoardStatus::Building,
        };
        let definition = &*entry.spec;
        Self { slug: definition.slug.as_str(), name: &entry.name, public: entry.public, status, definition }
    }
}

/// All leaderboards of a game.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct LeaderboardList<'a> {
    /// By slug.
    leaderboards: Vec<LeaderboardSummary<'a>>,
}

/// The leaderboards of the key's game.
#[utoipa::path(
    get, path = "/v1/leaderboards", tag = "leaderboards", security(("key" = [])),
    responses((status = 200, body = LeaderboardList<'static>))
)]
pub async fn list(State(state): State<ApiState>, reading: Reading, asked: Asked) -> Response {
    let visible = reading.game.leaderboards.values().filter(|entry| entry.public || !reading.public);
    let mut leaderboards: Vec<LeaderboardSummary<'_>> = visible.map(Into::into).collect();
    leaderboards.sort_unstable_by_key(|summary| summary.slug);
    let (body, etag) = encode(&LeaderboardList { leaderboards });
    respond(&asked.headers, Caching::new(&state, reading.public), body, &etag, false)
}

/// One leaderboard.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct LeaderboardAnswer<'a> {
    /// The leaderboard.
    #[serde(flatten)]
    summary: LeaderboardSummary<'a>,
    /// The current period; null while it is built for the first time.
    period: Option<PeriodAnswer>,
    /// When the current period began, RFC 3339; null: it never resets.
    #[schema(value_type = Option<String>, format = DateTime)]
    prev_reset: Option<Micros>,
    /// When the next one begins, RFC 3339; null: never.
    #[schema(value_type = Option<String>, format = DateTime)]
    next_reset: Option<Micros>,
    /// Entries in the current period; null while it cannot be read.
    entry_count: Option<u64>,
    /// The board's version; null while it cannot be read.
    version: Option<i64>,
}

/// A leaderboard's definition, its current period and how many entries that has.
#[utoipa::path(
    get, path = "/v1/leaderboards/{slug}", tag = "leaderboards", security(("key" = [])),
    params(("slug" = String, Path, description = "The leaderboard")),
    responses((status = 200, body = LeaderboardAnswer<'static>))
)]
pub async fn definition(State(state): State<ApiState>, reading: Reading, asked: Asked) -> Result<Response, ApiError> {
    let entry = reading.leaderboard()?;
    let mut answer = LeaderboardAnswer {
        summary: entry.into(),
        period: None,
        prev_reset: None,
        next_reset: None,
        entry_count: None,
        version: None,
    };
    if let Some(live) = &entry.live {
        let period = state.boards.period(live, WhichPeriod::Current).await?;
        let board = board_period(entry, &period);
        let source = state.sources.of(&board, &period);
        answer.period = Some((&period).into());
        answer.next_reset = period.period.ends_at;
        answer.prev_reset = period.period.ends_at.map(|_| period.period.starts_at);
        // A definition is worth having even while the entries are not there.
        if let Ok(page) = source.page(1, None, Direction::Forward).await {
            (answer.entry_count, answer.version) = (Some(page.total), Some(page.version));
        }
    }
    let (body, etag) = encode(&answer);
    Ok(respond(&asked.headers, Caching::new(&state, reading.public), body, &etag, false))
}

/// A period in the archive.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct ArchivedPeriod {
    /// The period.
    #[serde(flatten)]
    period: PeriodAnswer,
    /// `open`, or `closed`: its standings are final.
    state: &'static str,
    /// Entries at closing; null while open.
    entry_count: Option<i64>,
    /// Events that came after the grace and do not count.
    late_count: i64,
    /// When it was closed, RFC 3339.
    #[schema(value_type = Option<String>, format = DateTime)]
    closed_at: Option<Micros>,
    /// It is over and waits for these before its standings become final: `queue`, `jobs`, `facts`, `dead_letters`,
    /// `set_aside_facts`, `unread_jobs`, `failing`. Absent while it need not wait.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    waits_for: Vec<String>,
    /// It was closed although these were undecided (the same words); what of them is counted later is late. Absent in
    /// the usual case that nothing was.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    closed_over: Vec<String>,
}

/// The periods of a leaderboard.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct PeriodsAnswer<'a> {
    /// Which.
    leaderboard: &'a str,
    /// The latest first. Where an edit of the schedule made periods overlap, all of them.
    periods: Vec<ArchivedPeriod>,
    /// For older ones: the start of the last one shown, for `?before=`; null at the end.
    #[schema(value_type = Option<String>, format = DateTime)]
    next_before: Option<Micros>,
}

/// The current and all earlier periods, the latest first.
#[utoipa::path(
    get, path = "/v1/leaderboards/{slug}/periods", tag = "leaderboards", security(("key" = [])),
    params(
        ("slug" = String, Path, description = "The leaderboard"),
        ("limit" = Option<u16>, Query, minimum = 1, maximum = 1000,
         description = "Most periods; 100 by default. Those that began together with the last one come with it"),
        ("before" = Option<String>, Query, description = "`next_before` of another page"),
    ),
    responses((status = 200, body = PeriodsAnswer<'static>))
)]
pub async fn periods_of(State(state): State<ApiState>, reading: Reading, asked: Asked) -> Result<Response, ApiError> {
    let text = asked.query();
    let (limit, before) = (ReadingQuery::parse(text)?.limit, super::query::before(text)?);
    let limit = limit.unwrap_or(DEFAULT_PERIODS);
    let (entry, live) = reading.live()?;
    reading.count(&state)?;
    // Made if nobody has scored in it yet.
    state.boards.current(live).await?;
    let before = before.unwrap_or_else(|| Micros(state.clock.now().0.saturating_add(1)));
    let found = periods::began_before(&state.pool, live.generation.id, before, limit as i64).await?;
    let next_before = found.last().filter(|_| found.len() >= limit).map(|p| p.period.starts_at);
    let ids: Vec<i64> = found.iter().map(|stored| stored.id).collect();
    let mut notes = period_closing::notes(&state.pool, &ids).await?;
    let periods = found
        .iter()
        .map(|stored| {
            let ClosingNote { waits_for, closed_over } = notes.remove(&stored.id).unwrap_or_default();
            ArchivedPeriod {
                period: stored.into(),
                state: if stored.closed { "closed" } else { "open" },
                entry_count: stored.entry_count,
                late_count: stored.late_count,
                closed_at: stored.closed_at,
                waits_for,
                closed_over,
            }
        })
        .collect();
    let answer = PeriodsAnswer { leaderboard: entry.spec.slug.as_str(), periods, next_before };
    let (body, etag) = encode(&answer);
    Ok(respond(&asked.headers, Caching::new(&state, reading.public), body, &etag, false))
}
