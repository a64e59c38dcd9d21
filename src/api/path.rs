//! What a path names.

use axum::extract::{FromRequestParts, RawPathParams};
use axum::http::request::Parts;

use super::problem::Problem;
use super::state::ApiState;

/// The one part of a route's path that the client chooses, percent-decoded and otherwise as it came. Refusals are
/// problems like all others; axum's own extractor answers in plain text.
pub struct Named(pub String);

impl FromRequestParts<ApiState> for Named {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &ApiState) -> Result<Self, Problem> {
        let params = RawPathParams::from_request_parts(parts, state).await.map_err(|_| unreadable())?;
        let named = params.iter().next().map(|(_, value)| value.to_owned());
        named.map(Self).ok_or_else(unreadable)
    }
}

/// `400 path_invalid`.
pub fn unreadable() -> Problem {
    Problem::bad_request("path_invalid", "The path is not percent-encoded UTF-8.")
}
