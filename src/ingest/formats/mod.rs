//! Wire formats: from a body to the events a client wrote.

pub mod native;

use axum::http::{HeaderMap, header};

/// A format that a content type names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// `application/json`.
    Json,
    /// `application/x-ndjson`: an event a line.
    NdJson,
}

impl Format {
    /// The format of a request; `None` when its content type is none of ours. No content type at all is JSON: simple
    /// clients send none, and a body that is no JSON is refused all the same.
    pub fn of(headers: &HeaderMap) -> Option<Self> {
        let Some(value) = headers.get(header::CONTENT_TYPE) else { return Some(Self::Json) };
        let essence = value.to_str().ok()?.split(';').next().unwrap_or_default().trim();
        if essence.eq_ignore_ascii_case("application/json") {
            Some(Self::Json)
        } else if ["application/x-ndjson", "application/ndjson", "application/jsonl"]
            .iter()
            .any(|name| essence.eq_ignore_ascii_case(name))
        {
            Some(Self::NdJson)
        } else {
            None
        }
    }
}

/// Why a body as a whole cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BodyProblem {
    /// Not UTF-8, which JSON must be.
    #[error("the body is not valid UTF-8")]
    NotUtf8,
    /// Not JSON; where and why.
    #[error("the body is not valid JSON: {0}")]
    NotJson(String),
    /// JSON, but neither an array, nor an event, nor an envelope.
    #[error("the body must be an array of events, one event, or an object with an array 'events'")]
    WrongShape,
    /// No events.
    #[error("the batch has no events")]
    Empty,
    /// More events than a batch may have.
    #[error("a batch may have at most {limit} events; nothing was queued")]
    TooManyEvents {
        /// The most it may have.
        limit: usize,
    },
}
