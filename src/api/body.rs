//! Bodies of requests.

use std::time::Duration;

use axum::body::Bytes;
use axum::extract::{FromRequest, Request};
use serde::de::DeserializeOwned;

use super::problem::Problem;
use super::state::ApiState;
use crate::domain::json_words::in_words;
use crate::domain::payload_check::{PayloadChecker, PayloadProblem};
use crate::http::body::read;

/// Most bytes of a body: 500 player ids are 66 kB.
pub const MAX_BODY: usize = 256 * 1024;

/// The bytes of a body; refusals are problems like all others.
#[derive(Debug)]
pub struct RawBody(pub Bytes);

impl FromRequest<ApiState> for RawBody {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &ApiState) -> Result<Self, Problem> {
        let gap = Duration::from_secs(state.http.http_body_timeout_seconds);
        let (parts, body) = request.into_parts();
        let read = read(body, &parts.headers, MAX_BODY, gap).await;
        read.map(Self).map_err(|error| Problem::no_body(error, MAX_BODY))
    }
}

impl RawBody {
    /// Reads JSON; `shape` says what was expected.
    ///
    /// # Errors
    /// `400 body_invalid`.
    pub fn json<T: DeserializeOwned>(&self, shape: &'static str) -> Result<T, Problem> {
        let invalid =
            |why: &dyn std::fmt::Display| Problem::bad_request("body_invalid", format!("Expected {shape}: {why}."));
        if let Ok(text) = std::str::from_utf8(&self.0) {
            // Postgres holds no U+0000, for example. What is damaged is left to the parser, which says where; what is
            // no object is not: it would take an array's items for the members of an object.
            match PayloadChecker::default().check(text) {
                Ok(()) | Err(PayloadProblem::Damaged) => {}
                Err(why) => return Err(invalid(&format!("the body {why}"))),
            }
        }
        serde_json::from_slice(&self.0).map_err(|error| invalid(&in_words(&error)))
    }
}
