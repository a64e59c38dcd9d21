//! How a game is told that it has as much, or changes as often, as it may.

use axum::http::StatusCode;
use metrics::counter;

use super::super::error::ApiError;
use super::super::problem::Problem;
use crate::store::game_bounds::OverBound;
use crate::telemetry::metrics::API_LIMITED;

impl From<OverBound> for ApiError {
    fn from(over: OverBound) -> Self {
        let text = over.to_string();
        let retry_after = match over {
            OverBound::Changes { retry_after_ms, .. } => u32::try_from(retry_after_ms.div_ceil(1_000)).ok(),
            _ => None,
        };
        let (limit, code, most) = match over {
            OverBound::Leaderboards(most) => ("leaderboards", "too_many_leaderboards", Some(most)),
            OverBound::OfOneEventType(most) => ("leaderboards_of_type", "too_many_leaderboards_of_type", Some(most)),
            OverBound::DefinitionBytes(most) => ("definition_bytes", "definitions_too_large", Some(most)),
            OverBound::Keys(most) => ("keys", "too_many_keys", Some(most)),
            OverBound::Changes { per_minute, .. } => ("changes", "too_many_changes", Some(per_minute)),
            OverBound::Recomputing => ("recomputes", "recompute_under_way", None),
            OverBound::Postgres(error) => return error.into(),
        };
        counter!(API_LIMITED, "role" => "api", "limit" => limit).increment(1);
        let detail = format!("{}{}.", text[..1].to_uppercase(), &text[1..]);
        let problem = match retry_after {
            Some(seconds) => Problem::new(StatusCode::TOO_MANY_REQUESTS, code, detail).retry_after(seconds.max(1)),
            None => Problem::new(StatusCode::CONFLICT, code, detail),
        };
        match most {
            Some(most) => problem.with("limit", most).into(),
            None => problem.into(),
        }
    }
}
