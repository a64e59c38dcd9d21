//! What a path names, and what else a handler reads of a request without a body.

use std::convert::Infallible;

use axum::extract::{FromRequest, FromRequestParts, RawPathParams, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, Uri};

use super::problem::Problem;

/// The one part of a route's path that the client chooses, percent-decoded and otherwise as it came. Refusals are
/// problems like all others; axum's own extractor answers in plain text.
pub struct Named(pub String);

impl<S: Send + Sync> FromRequestParts<S> for Named {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let params = RawPathParams::from_request_parts(parts, state).await.map_err(|_| unreadable())?;
        let named = params.iter().next().map(|(_, value)| value.to_owned());
        named.map(Self).ok_or_else(unreadable)
    }
}

/// The headers and the query of a request whose body nobody reads. It takes the request apart instead of copying them,
/// hence comes last.
pub struct Asked {
    /// The headers.
    pub headers: HeaderMap,
    uri: Uri,
}

impl Asked {
    /// What stands behind `?`; empty: nothing.
    pub fn query(&self) -> &str {
        self.uri.query().unwrap_or_default()
    }
}

impl<S: Send + Sync> FromRequest<S> for Asked {
    type Rejection = Infallible;

    async fn from_request(request: Request, _: &S) -> Result<Self, Infallible> {
        let (Parts { headers, uri, .. }, _) = request.into_parts();
        Ok(Self { headers, uri })
    }
}

/// `400 path_invalid`.
pub fn unreadable() -> Problem {
    Problem::bad_request("path_invalid", "The path is not percent-encoded UTF-8.")
}
