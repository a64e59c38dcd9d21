//! What the api answers when it cannot do what it was asked: its own refusals, and what the rooms below it say.
//!
//! A check of the request itself returns a [`Problem`]. Whoever also asks Postgres or the queue returns an
//! [`ApiError`], into which `?` turns either.

use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use tokio::time::Instant;

use super::problem::{Problem, no_such_game};
use crate::domain::board_text::SpecProblem;
use crate::queue::QueueError;
use crate::services::queues::QueueChangeError;
use crate::store::StoreError;
use crate::store::failure::{Failure, classify};
use crate::store::leaderboards::ApplyError;
use crate::telemetry::log_budget::LogBudget;

/// Why a request failed, as its client reads it.
#[derive(Debug, Clone)]
pub struct ApiError(Problem);

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        self.0.into_response()
    }
}

impl From<Problem> for ApiError {
    fn from(problem: Problem) -> Self {
        Self(problem)
    }
}

impl From<StoreError> for ApiError {
    /// Logged here, where it is handled; the client learns that the database is away, not what it said. What the
    /// database will never take is a defect of ours: the same request again would meet the same.
    fn from(error: StoreError) -> Self {
        if classify(&error) == Failure::Data {
            tracing::error!(%error, "Postgres refused what a request brought");
            return Problem::internal_error().into();
        }
        static LINES: LogBudget = LogBudget::new();
        if let Some(left_out) = LINES.admit(Instant::now()) {
            tracing::warn!(%error, left_out, "Postgres did not answer a request");
        }
        Problem::unavailable("database_unavailable", "The database does not answer; try again shortly.", 1).into()
    }
}

impl From<QueueError> for ApiError {
    fn from(error: QueueError) -> Self {
        static LINES: LogBudget = LogBudget::new();
        if let Some(left_out) = LINES.admit(Instant::now()) {
            tracing::warn!(%error, code = error.code(), left_out, "the queue did not answer a request");
        }
        Problem::unavailable("queue_unreachable", "The queue does not answer; try again shortly.", 1).into()
    }
}

impl From<QueueChangeError> for ApiError {
    fn from(error: QueueChangeError) -> Self {
        match error {
            QueueChangeError::Queue(error) => error.into(),
            QueueChangeError::Postgres(error) => error.into(),
        }
    }
}

impl From<SpecProblem> for ApiError {
    fn from(problem: SpecProblem) -> Self {
        unusable(problem.code, problem.message).at(&problem.field).into()
    }
}

impl From<ApplyError> for ApiError {
    fn from(error: ApplyError) -> Self {
        match error {
            ApplyError::NoGame => no_such_game().into(),
            ApplyError::HistoryIncomplete => {
                let detail =
                    format!("{error}. Add ?accept_incomplete_history=true to count from the stored events only.");
                Problem::new(StatusCode::CONFLICT, "history_incomplete", detail).into()
            }
            ApplyError::Spec(error) => unusable("definition_invalid", error.to_string()).into(),
            ApplyError::Postgres(error) => error.into(),
        }
    }
}

/// `422`: a definition that cannot be used.
fn unusable(code: &'static str, message: String) -> Problem {
    Problem::new(StatusCode::UNPROCESSABLE_ENTITY, code, message)
}
