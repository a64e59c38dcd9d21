//! Bodies of requests.

use axum::body::Bytes;
use axum::extract::{FromRequest, Request};
use axum::http::StatusCode;
use serde::de::DeserializeOwned;

use super::problem::Problem;

/// Most bytes of a body: 500 player ids are 66 kB.
pub const MAX_BODY: usize = 256 * 1024;

/// The bytes of a body; refusals are problems like all others.
pub struct RawBody(pub Bytes);

impl<S: Send + Sync> FromRequest<S> for RawBody {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        Bytes::from_request(request, state).await.map(Self).map_err(|rejection| {
            let rejection = axum::response::IntoResponse::into_response(rejection);
            if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE {
                let detail = format!("A body here has at most {MAX_BODY} bytes.");
                Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", detail)
            } else {
                Problem::bad_request("body_unreadable", "The body did not arrive completely.")
            }
        })
    }
}

impl RawBody {
    /// Reads JSON; `shape` says what was expected.
    ///
    /// # Errors
    /// `400 body_invalid`.
    pub fn json<T: DeserializeOwned>(&self, shape: &'static str) -> Result<T, Problem> {
        serde_json::from_slice(&self.0)
            .map_err(|error| Problem::bad_request("body_invalid", format!("Expected {shape}: {error}.")))
    }
}
