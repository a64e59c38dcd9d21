//! Every refusal of a whole request, with its status and stable code.

use axum::http::StatusCode;

use super::body::UnpackError;
use super::formats::BodyProblem;
use crate::http::body::BodyError;
use crate::http::problem::Problem;
use crate::queue::enqueue::{Closed, EnqueueError};

/// Seconds after which a dependency that was away is worth another try.
const RETRY_SOON: u32 = 1;
/// Seconds after which a backlog may have drained.
const RETRY_LATER: u32 = 5;

pub(super) fn no_directory() -> Problem {
    let detail = "games and keys are not known yet; try again";
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, "directory_unavailable", detail).retry_after(RETRY_SOON)
}

pub(super) fn unknown_content_type() -> Problem {
    let detail = "the content type must be application/json or application/x-ndjson";
    Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "content_type_unknown", detail)
}

pub(super) fn unknown_encoding() -> Problem {
    let detail = "the content encoding must be one of gzip, deflate, br and zstd";
    Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "content_encoding_unknown", detail)
}

pub(super) fn bad_idempotency_key() -> Problem {
    let detail = "Idempotency-Key must be 16 to 128 ASCII letters, digits and - _ . : @ + = / ~ |";
    Problem::new(StatusCode::BAD_REQUEST, "idempotency_key_invalid", detail)
}

pub(super) fn packed_body(error: UnpackError, max: usize) -> Problem {
    match error {
        UnpackError::TooLarge => Problem::no_body(BodyError::TooLarge, max),
        UnpackError::BadEncoding(_) => {
            Problem::new(StatusCode::BAD_REQUEST, "content_encoding_invalid", error.to_string())
        }
    }
}

pub(super) fn no_batch(problem: &BodyProblem) -> Problem {
    let detail = problem.to_string();
    match problem {
        BodyProblem::NotUtf8 => Problem::new(StatusCode::BAD_REQUEST, "body_not_utf8", detail),
        BodyProblem::NotJson(_) => Problem::new(StatusCode::BAD_REQUEST, "body_not_json", detail),
        BodyProblem::WrongShape => Problem::new(StatusCode::BAD_REQUEST, "body_wrong_shape", detail),
        BodyProblem::Empty => Problem::new(StatusCode::BAD_REQUEST, "batch_empty", detail),
        BodyProblem::TooManyEvents { limit } => {
            Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "batch_too_long", detail).with("limit", *limit)
        }
    }
}

pub(super) fn address_blocked(for_ms: u64, limit: u32) -> Problem {
    let detail = format!("this address has made more than {limit} requests within a minute");
    limited("address_limit", detail, for_ms).with("limit", limit)
}

fn limited(code: &'static str, detail: String, for_ms: u64) -> Problem {
    Problem::new(StatusCode::TOO_MANY_REQUESTS, code, detail).retry_after(whole_seconds(for_ms))
}

/// At least one: in no time nothing changes.
fn whole_seconds(ms: u64) -> u32 {
    u32::try_from(ms.div_ceil(1_000)).unwrap_or(u32::MAX).max(1)
}

pub(super) fn closed(why: Closed) -> Problem {
    let (code, detail, seconds) = match why {
        Closed::Unreachable => ("queue_unreachable", NOT_ACKNOWLEDGED, RETRY_SOON),
        Closed::QueueFull => ("queue_full", "the backlog is at its cap; nothing was queued", RETRY_LATER),
        Closed::MemoryFull => {
            ("queue_memory_full", "the queue is nearly out of memory; nothing was queued", RETRY_LATER)
        }
    };
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, code, detail).retry_after(seconds)
}

const NOT_ACKNOWLEDGED: &str =
    "the queue did not acknowledge the batch; it may or may not be queued, and sending it again unchanged is safe";

pub(super) fn not_enqueued(error: &EnqueueError) -> Problem {
    match error {
        EnqueueError::OutOfMemory => closed(Closed::MemoryFull),
        EnqueueError::Unreachable(_) | EnqueueError::LimitsAway => closed(Closed::Unreachable),
        EnqueueError::Refused(_) => {
            Problem::new(StatusCode::SERVICE_UNAVAILABLE, "queue_refused", NOT_ACKNOWLEDGED).retry_after(RETRY_LATER)
        }
    }
}

/// `of_all`: it is not this game's receipts, but those of all games together.
pub(super) fn receipts_full(of_all: bool, retry_after_ms: u64) -> Problem {
    let (code, detail) = if of_all {
        (
            "idempotency_exhausted",
            "all games together have as many Idempotency-Keys in use as there may be; send without one, or later",
        )
    } else {
        ("idempotency_full", "this game has as many Idempotency-Keys in use as it may have; send without one, or later")
    };
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, code, detail).retry_after(whole_seconds(retry_after_ms))
}

pub(super) fn game_share() -> Problem {
    let detail = "this game's batches that wait are its share of the queue; nothing was queued";
    Problem::new(StatusCode::TOO_MANY_REQUESTS, "game_share", detail).retry_after(RETRY_LATER)
}

pub(super) fn idempotency_key_reused() -> Problem {
    let detail = "this Idempotency-Key was used with another body within the last 24 hours";
    Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "idempotency_key_reused", detail)
}

pub(super) fn receipt_unreadable() -> Problem {
    let detail = "the receipt of this Idempotency-Key was written by a newer version; try again later";
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, "idempotency_unreadable", detail).retry_after(RETRY_LATER)
}

pub(super) fn not_found() -> Problem {
    Problem::new(StatusCode::NOT_FOUND, "not_found", "there is nothing here; events go to POST /v1/events")
}

pub(super) fn method_not_allowed() -> Problem {
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", "events are sent with POST")
}
