//! Refusals as RFC 9457 `application/problem+json`, each with a stable `code`.

use std::borrow::Cow;
use std::fmt::Write as _;

use axum::body::Body;
use axum::http::{HeaderValue, Response, StatusCode, header};
use axum::response::IntoResponse;
use serde_json::{Map, Value};

use super::body::BodyError;
use crate::domain::clock::Micros;

/// The media type of a problem.
pub const CONTENT_TYPE: HeaderValue = HeaderValue::from_static("application/problem+json");

/// Why a request was refused, as the client reads it.
#[derive(Debug, Clone, PartialEq)]
pub struct Problem {
    /// The status.
    pub status: StatusCode,
    /// Stable: what programs decide by.
    pub code: &'static str,
    /// For people; says nothing secret.
    pub detail: Cow<'static, str>,
    /// Seconds until it is worth trying again; also sent as `Retry-After`.
    pub retry_after: Option<u32>,
    /// Further members.
    pub members: Map<String, Value>,
}

impl Problem {
    /// A problem without further members.
    pub fn new(status: StatusCode, code: &'static str, detail: impl Into<Cow<'static, str>>) -> Self {
        Self { status, code, detail: detail.into(), retry_after: None, members: Map::new() }
    }

    /// `400`.
    pub fn bad_request(code: &'static str, detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, code, detail)
    }

    /// `404`.
    pub fn not_found(code: &'static str, detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::NOT_FOUND, code, detail)
    }

    /// `500`: a bug of ours.
    pub fn internal_error() -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal_error", "Something went wrong here.")
    }

    /// `503` with `Retry-After` in seconds.
    pub fn unavailable(code: &'static str, detail: impl Into<Cow<'static, str>>, retry_after: u32) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, code, detail).retry_after(retry_after)
    }

    /// `401`: no key was sent.
    pub fn key_missing() -> Self {
        let detail = "Send a key: 'Authorization: Bearer KEY', or HTTP Basic with the key as user name.";
        Self::new(StatusCode::UNAUTHORIZED, "key_missing", detail)
    }

    /// `401`: the key is not one.
    pub fn key_unknown() -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "key_unknown", "This key does not exist, or was revoked.")
    }

    /// `429`: an address has guessed at too many keys.
    pub fn too_many_unknown_keys(retry_after: u32) -> Self {
        let detail = "Too many unknown keys from this address; wait before trying again.";
        Self::new(StatusCode::TOO_MANY_REQUESTS, "too_many_unknown_keys", detail).retry_after(retry_after)
    }

    /// `503`: a connection over a cap, answered before anything of it was read.
    pub fn too_many_connections() -> Self {
        let detail = "Too many connections are open, here or from this address; close some, or try again.";
        Self::unavailable("too_many_connections", detail, 1)
    }

    /// The answer to a body that did not arrive as it should: `413`, `408` or `400`. `max`: most bytes of a body.
    pub fn no_body(error: BodyError, max: usize) -> Self {
        match error {
            BodyError::TooLarge => {
                let detail = format!("A body may have at most {max} bytes, packed and unpacked; nothing was done.");
                Self::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", detail).with("limit", max)
            }
            BodyError::Stalled => {
                Self::new(StatusCode::REQUEST_TIMEOUT, "body_timeout", "The body did not arrive in time.")
            }
            BodyError::BrokeOff => Self::bad_request("body_incomplete", "The body broke off."),
        }
    }

    /// Names the part of the request that is meant, as a JSON pointer or the name of a parameter.
    #[must_use]
    pub fn at(self, field: &str) -> Self {
        self.with("field", field)
    }

    /// Says when it is worth trying again.
    #[must_use]
    pub fn retry_after(mut self, seconds: u32) -> Self {
        self.retry_after = Some(seconds);
        self
    }

    /// Adds a member, for example the limit that was exceeded.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.members.insert(name.to_owned(), value.into());
        self
    }

    /// The whole answer as bytes, for a connection that is refused before hyper sees it.
    pub fn raw_answer(self, now: Micros) -> Vec<u8> {
        let (status, body) = (self.status, self.body());
        let mut answer = format!("HTTP/1.1 {status}\r\n");
        for (name, value) in self.into_response().headers() {
            let _ = write!(answer, "{name}: {}\r\n", value.to_str().unwrap_or_default());
        }
        let date = now.to_timestamp().strftime("%a, %d %b %Y %H:%M:%S GMT");
        let length = body.len();
        let _ = write!(answer, "date: {date}\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n");
        let mut answer = answer.into_bytes();
        answer.extend_from_slice(&body);
        answer
    }

    /// The body: `{"type":"urn:scoreline:problem:<code>","title":…,"status":…,"code":…,"detail":…}` and the members.
    pub fn body(&self) -> Vec<u8> {
        let mut object = Map::new();
        object.insert("type".into(), format!("urn:scoreline:problem:{}", self.code).into());
        object.insert("title".into(), title(self.status).into());
        object.insert("status".into(), self.status.as_u16().into());
        object.insert("code".into(), self.code.into());
        object.insert("detail".into(), self.detail.as_ref().into());
        if let Some(seconds) = self.retry_after {
            object.insert("retry_after".into(), seconds.into());
        }
        object.extend(self.members.iter().map(|(name, value)| (name.clone(), value.clone())));
        Value::Object(object).to_string().into_bytes()
    }
}

/// The status in words; `title` is the same for every problem of a status.
fn title(status: StatusCode) -> &'static str {
    status.canonical_reason().unwrap_or("Problem")
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response<Body> {
        let mut response = Response::new(Body::from(self.body()));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, CONTENT_TYPE);
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        if let Some(seconds) = self.retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.status == StatusCode::REQUEST_TIMEOUT {
            // What still comes of the body is of no use.
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"scoreline\""));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_says_code_status_and_members() {
        let problem = Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "batch_too_long", "at most 100 events")
            .with("limit", 100)
            .retry_after(7);
        let body: Value = serde_json::from_slice(&problem.body()).unwrap();
        assert_eq!(body["type"], "urn:scoreline:problem:batch_too_long");
        assert_eq!((&body["status"], &body["limit"], &body["retry_after"]), (&413.into(), &100.into(), &7.into()));
        let response = problem.into_response();
        assert_eq!(response.headers()[header::CONTENT_TYPE], "application/problem+json");
        assert_eq!(response.headers()[header::RETRY_AFTER], "7");
    }
}
