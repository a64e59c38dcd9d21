//! What every answer gets: its time is measured, and browsers are told to trust nothing in it.

use std::collections::HashMap;

use arc_swap::ArcSwap;
use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderValue, header};
use axum::middleware::Next;
use axum::response::Response;
use metrics::Histogram;
use tokio::time::Instant;

use super::state::ApiState;
use crate::telemetry::metrics::HTTP_REQUEST_SECONDS;

/// Histograms by status and route, so that a request looks up a handle instead of registering labels.
#[derive(Default)]
pub struct RouteTimes(ArcSwap<HashMap<u16, HashMap<Box<str>, Histogram>>>);

impl RouteTimes {
    fn record(&self, route: &str, status: u16, seconds: f64) {
        if let Some(histogram) = self.0.load().get(&status).and_then(|routes| routes.get(route)) {
            histogram.record(seconds);
            return;
        }
        // Both labels are from closed sets: the patterns of routes, and the statuses that we send.
        let histogram = metrics::histogram!(
            HTTP_REQUEST_SECONDS, "role" => "api", "route" => route.to_owned(), "status" => status.to_string()
        );
        histogram.record(seconds);
        self.0.rcu(|times| {
            let mut times = HashMap::clone(times);
            times.entry(status).or_default().insert(route.into(), histogram.clone());
            times
        });
    }
}

/// The layer around every route.
pub async fn observe(State(state): State<ApiState>, request: Request, next: Next) -> Response {
    let started = Instant::now();
    let route = request.extensions().get::<MatchedPath>().cloned();
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    if !headers.contains_key(header::CONTENT_SECURITY_POLICY) {
        let policy = HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'");
        headers.insert(header::CONTENT_SECURITY_POLICY, policy);
    }
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    let route = route.as_ref().map_or("none", MatchedPath::as_str);
    state.times.record(route, response.status().as_u16(), started.elapsed().as_secs_f64());
    response
}
