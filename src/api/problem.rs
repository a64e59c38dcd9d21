//! How the api says no: [`Problem`], its description for the document, and refusals that several routes give.

pub use crate::http::problem::Problem;

/// The body of a refusal (RFC 9457).
#[derive(Debug, utoipa::ToSchema)]
#[schema(as = Problem)]
#[expect(dead_code, reason = "describes what `http::problem` writes")]
pub struct ProblemBody {
    /// `urn:scoreline:problem:<code>`.
    #[schema(rename = "type", example = "urn:scoreline:problem:no_entry")]
    kind: String,
    /// The status in words.
    #[schema(example = "Not Found")]
    title: String,
    /// The status.
    #[schema(example = 404)]
    status: u16,
    /// Stable, for programs.
    #[schema(value_type = super::openapi::codes::ProblemCode)]
    code: String,
    /// For people; may change.
    detail: String,
    /// Which part of the request is meant, as a JSON pointer or the name of a parameter.
    field: Option<String>,
    /// Seconds until it is worth trying again; also the header `Retry-After`.
    retry_after: Option<u32>,
}

/// `404` for a path that leads nowhere.
pub fn no_such_route() -> Problem {
    Problem::not_found("route_not_found", "There is no such route; see /docs.")
}

/// `404` for a game that does not exist, or not for this caller.
pub fn no_such_game() -> Problem {
    Problem::not_found("game_not_found", "There is no such game.")
}

/// `503 leaderboard_rebuilding`.
pub fn rebuilding() -> Problem {
    Problem::unavailable("leaderboard_rebuilding", "This leaderboard is being computed; try again shortly.", 1)
}
