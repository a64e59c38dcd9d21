//! How the api says no: [`crate::http::problem::Problem`] for what Postgres and the queue say, and its description.

use crate::domain::clock::Clock;
pub use crate::http::problem::Problem;
use crate::store::failure::{Failure, classify};
use crate::telemetry::log_budget::LogBudget;

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

impl From<sqlx::Error> for Problem {
    /// Logged here, where it is handled; the client learns that the database is away, not what it said. What the database
    /// will never take is a defect of ours: the same request again would meet the same.
    fn from(error: sqlx::Error) -> Self {
        if classify(&error) == Failure::Data {
            tracing::error!(%error, "Postgres refused what a request brought");
            return Self::internal_error();
        }
        static LINES: LogBudget = LogBudget::new();
        if let Some(left_out) = LINES.admit(Clock::system().now()) {
            tracing::warn!(%error, left_out, "Postgres did not answer a request");
        }
        Self::unavailable("database_unavailable", "The database does not answer; try again shortly.", 1)
    }
}
