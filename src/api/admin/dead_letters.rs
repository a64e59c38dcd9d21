//! Dead letters: jobs that will not be retried by themselves.

use std::borrow::Cow;

use axum::Json;
use axum::extract::{RawQuery, State};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use uuid::Uuid;

use super::super::access::StudioOrOperator;
use super::super::body::RawBody;
use super::super::change::ChangeBody;
use super::super::error::ApiError;
use super::super::path::Named;
use super::super::problem::Problem;
use super::super::query::{parse_limit, text};
use super::super::state::ApiState;
use crate::domain::clock::Micros;
use crate::domain::ids::{GameId, check_identifier};
use crate::services;
use crate::store::dead_letters::{self, DeadLetter, DeadLetterFilter};

/// Most dead letters of one decision.
const MAX_DECIDED: usize = 1_000;

/// A dead letter without its payload.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[schema(as = DeadLetter)]
pub struct LetterAnswer {
    /// By which it is decided.
    #[schema(value_type = String)]
    id: Uuid,
    /// The job's id in the queue.
    job_id: String,
    /// Which queue.
    queue: String,
    /// `high` or `low`.
    lane: String,
    /// What the job does.
    kind: String,
    /// Whose it is; absent when the payload could not be read.
    #[schema(value_type = Option<i32>)]
    game_id: Option<GameId>,
    /// Why it is here, in a word.
    reason: String,
    /// The last error.
    error: String,
    /// How often it was tried.
    attempts: i32,
    /// How often a worker died under it.
    crashes: i32,
    /// When ingest enqueued it, RFC 3339.
    #[schema(value_type = String, format = DateTime)]
    received_at: Micros,
    /// When it was given up, RFC 3339.
    #[schema(value_type = String, format = DateTime)]
    died_at: Micros,
    /// `waiting`, `replayed` or `discarded`.
    state: String,
    /// When that was decided, RFC 3339.
    #[schema(value_type = Option<String>, format = DateTime)]
    decided_at: Option<Micros>,
}

impl From<DeadLetter> for LetterAnswer {
    fn from(letter: DeadLetter) -> Self {
        Self {
            id: letter.id,
            job_id: letter.job_id,
            queue: letter.queue,
            lane: letter.lane,
            kind: letter.kind,
            game_id: letter.game_id,
            reason: letter.reason,
            error: letter.error,
            attempts: letter.attempts,
            crashes: letter.crashes,
            received_at: letter.received_at,
            died_at: letter.died_at,
            state: letter.state,
            decided_at: letter.decided_at,
        }
    }
}

/// Dead letters.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct DeadLetterList {
    /// The oldest first.
    dead_letters: Vec<LetterAnswer>,
    /// For `?after=`; null at the end.
    next_after: Option<String>,
}

/// Dead letters of a game, or of all (admin token).
#[utoipa::path(
    get, path = "/v1/admin/dead-letters", tag = "admin", security(("key" = [])),
    params(("game" = Option<String>, Query, description = "With the admin token: of one game only"),
           ("state" = Option<String>, Query, description = "`waiting` (default), `replayed`, `discarded` or `all`"),
           ("kind" = Option<String>, Query, description = "What the job does"),
           ("reason" = Option<String>, Query, description = "Why it is here"),
           ("limit" = Option<u16>, Query, minimum = 1, maximum = 1000, description = "Most letters; 100 by default"),
           ("after" = Option<String>, Query, description = "`next_after` of another page")),
    responses((status = 200, body = DeadLetterList))
)]
pub async fn list(
    State(state): State<ApiState>,
    who: StudioOrOperator,
    RawQuery(query): RawQuery,
) -> Result<Json<DeadLetterList>, ApiError> {
    let query = query.unwrap_or_default();
    let limit = text(&query, "limit").map(|limit| parse_limit(&limit)).transpose()?.unwrap_or(100);
    let wanted = text(&query, "state").unwrap_or("waiting".into());
    if !["waiting", "replayed", "discarded", "all"].contains(&&*wanted) {
        let detail = "state is 'waiting', 'replayed', 'discarded' or 'all'.";
        return Err(Problem::bad_request("state_invalid", detail).at("state").into());
    }
    let (kind, reason) = (filter(&query, "kind")?, filter(&query, "reason")?);
    let after = text(&query, "after").map(|after| parse_after(&after)).transpose()?;
    let filter = DeadLetterFilter {
        state: Some(&*wanted).filter(|s| *s != "all"),
        game: who.game.as_ref().map(|g| g.id),
        kind: kind.as_deref(),
        reason: reason.as_deref(),
        after,
    };
    let dead_letters = dead_letters::list(&state.pool, &filter, limit as i64).await?;
    let last = dead_letters.last().filter(|_| dead_letters.len() == limit);
    let next_after = last.map(|letter| format!("{}_{}", letter.received_at.0, letter.id));
    Ok(Json(DeadLetterList { dead_letters: dead_letters.into_iter().map(Into::into).collect(), next_after }))
}

fn filter<'a>(query: &'a str, name: &'static str) -> Result<Option<Cow<'a, str>>, Problem> {
    let given = text(query, name);
    match given.as_deref().map(check_identifier) {
        Some(Err(problem)) => Err(Problem::bad_request("filter_invalid", format!("{name} {problem}.")).at(name)),
        Some(Ok(())) | None => Ok(given),
    }
}

fn parse_after(text: &str) -> Result<(Micros, Uuid), Problem> {
    let parsed =
        text.split_once('_').and_then(|(at, id)| Some((Micros::from_outside(at.parse().ok()?)?, id.parse().ok()?)));
    parsed.ok_or_else(|| Problem::bad_request("after_invalid", "after is the next_after of another page.").at("after"))
}

/// A dead letter with its body.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct DeadLetterAnswer {
    /// The dead letter.
    #[serde(flatten)]
    letter: LetterAnswer,
    /// The job as JSON; null when it could not be read.
    #[schema(value_type = Option<Object>)]
    body: Option<Box<RawValue>>,
}

/// One dead letter with its body.
#[utoipa::path(
    get, path = "/v1/admin/dead-letters/{id}", tag = "admin", security(("key" = [])),
    params(("id" = String, Path, description = "The dead letter")),
    responses((status = 200, body = DeadLetterAnswer))
)]
pub async fn show(
    State(state): State<ApiState>,
    who: StudioOrOperator,
    Named(id): Named,
) -> Result<Json<DeadLetterAnswer>, ApiError> {
    let not_found = || Problem::not_found("dead_letter_not_found", "There is no such dead letter.");
    let id = id.parse().map_err(|_| not_found())?;
    let found = dead_letters::read(&state.pool, who.game.map(|g| g.id), id).await?;
    let (letter, body) = found.ok_or_else(not_found)?;
    Ok(Json(DeadLetterAnswer { letter: letter.into(), body: body.and_then(|b| RawValue::from_string(b).ok()) }))
}

/// Which dead letters.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Decision {
    /// At most 1000.
    #[schema(value_type = Vec<super::super::openapi::words::Uuid>, max_items = 1000)]
    ids: Vec<Uuid>,
}

/// What became of them.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct Decided {
    /// Those that waited until now.
    #[schema(value_type = Vec<String>)]
    ids: Vec<Uuid>,
}

/// The dead letters that a body names.
///
/// # Errors
/// `400`.
pub fn decision(body: &RawBody) -> Result<Vec<Uuid>, Problem> {
    let wanted: Decision = body.json("{\"ids\": [at most 1000 ids]}")?;
    if wanted.ids.len() > MAX_DECIDED {
        let detail = format!("At most {MAX_DECIDED} at once.");
        return Err(Problem::bad_request("too_many_dead_letters", detail).at("/ids"));
    }
    Ok(wanted.ids)
}

/// Gives dead letters up for good.
#[utoipa::path(
    post, path = "/v1/admin/dead-letters/discard", tag = "admin", security(("key" = [])), request_body = Decision,
    responses((status = 200, body = Decided))
)]
pub async fn discard(
    State(state): State<ApiState>,
    who: StudioOrOperator,
    body: ChangeBody,
) -> Result<Json<Decided>, ApiError> {
    let ids = decision(&body)?;
    let game = who.game.map(|g| g.id);
    let ids = services::dead_letters::discard(&state.pool, game, &ids, who.actor).await?;
    Ok(Json(Decided { ids }))
}

/// Puts dead letters back into the queue. Doing it twice changes nothing.
#[utoipa::path(
    post, path = "/v1/admin/dead-letters/replay", tag = "admin", security(("key" = [])), request_body = Decision,
    responses((status = 200, body = Decided))
)]
pub async fn replay(
    State(state): State<ApiState>,
    who: StudioOrOperator,
    body: ChangeBody,
) -> Result<Json<Decided>, ApiError> {
    let ids = decision(&body)?;
    let game = who.game.map(|g| g.id);
    let ids = services::dead_letters::replay(&state.pool, &state.queue, game, &ids, who.actor).await?;
    Ok(Json(Decided { ids }))
}
