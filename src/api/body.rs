//! Bodies of requests.

use std::time::Duration;

use axum::body::Bytes;
use axum::extract::{FromRequest, Request};
use serde::de::DeserializeOwned;

use super::problem::Problem;
use super::state::ApiState;
use crate::domain::payload_check::{PayloadChecker, PayloadProblem};
use crate::http::body::read;

/// Most bytes of a body: 500 player ids are 66 kB.
pub const MAX_BODY: usize = 256 * 1024;

/// The bytes of a body; refusals are problems like all others.
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
            // Postgres holds no U+0000, for example. What is damaged is left to the parser, which says where; what is no
            // object is not: it would take an array's items for the members of an object.
            match PayloadChecker::default().check(text) {
                Ok(()) | Err(PayloadProblem::Damaged) => {}
                Err(why) => return Err(invalid(&format!("the body {why}"))),
            }
        }
        serde_json::from_slice(&self.0).map_err(|error| invalid(&plain(&error.to_string())))
    }
}

/// A parser's message without the names of this program's types.
fn plain(message: &str) -> String {
    let mut words: Vec<&str> = Vec::new();
    for word in message.split(' ') {
        match (words.last().copied(), word.trim_end_matches(',')) {
            (_, "i8" | "i16" | "i32" | "i64" | "u8" | "u16" | "u32" | "u64" | "usize") => {
                words.extend(["a", "whole", "number"])
            }
            // `struct Name`: the name says nothing to a client.
            (Some("struct"), _) => {
                words.pop();
                words.extend(["an", "object"]);
            }
            _ => words.push(word),
        }
    }
    words.join(" ").replace("did not match any variant of untagged enum", "is not what it may be:")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_do_not_name_types_of_this_program() {
        #[derive(Debug, serde::Deserialize)]
        #[expect(dead_code, reason = "only read")]
        struct Edit {
            limit: u32,
        }
        let said = |json: &str| plain(&serde_json::from_str::<Edit>(json).unwrap_err().to_string());
        assert_eq!(said(r#"{"limit":"x"}"#), "invalid type: string \"x\", expected a whole number at line 1 column 12");
        assert_eq!(said("7"), "invalid type: integer `7`, expected an object at line 1 column 1");
    }
}
