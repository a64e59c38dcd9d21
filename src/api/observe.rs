//! What every answer gets: its time is measured, and browsers are told to trust nothing in it.

use std::collections::HashMap;
use std::convert::Infallible;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::task::{Context, Poll};

use arc_swap::ArcSwap;
use axum::extract::{MatchedPath, Request};
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse as _, Response};
use futures_util::FutureExt as _;
use metrics::Histogram;
use tokio::time::Instant;
use tower::{Layer, Service};

use super::problem::Problem;
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

/// The one layer around every route: each layer of a router boxes the request's future once more, so what every answer
/// needs is done here together.
#[derive(Clone)]
pub struct Observe(pub ApiState);

/// A route under observation.
#[derive(Clone)]
pub struct Observed<S> {
    state: ApiState,
    route: S,
}

impl<S> Layer<S> for Observe {
    type Service = Observed<S>;

    fn layer(&self, route: S) -> Observed<S> {
        Observed { state: self.0.clone(), route }
    }
}

impl<S> Service<Request> for Observed<S>
where
    S: Service<Request, Response = Response, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = Response;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.route.poll_ready(cx)
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let started = Instant::now();
        let route = request.extensions().get::<MatchedPath>().cloned();
        // A bug costs its own request only, whether it strikes here or while the future runs.
        let answer = std::panic::catch_unwind(AssertUnwindSafe(|| self.route.call(request)));
        let state = self.state.clone();
        Box::pin(async move {
            let answer = match answer {
                Ok(answer) => AssertUnwindSafe(answer).catch_unwind().await,
                Err(panic) => Err(panic),
            };
            let mut response = match answer {
                Ok(Ok(response)) => response,
                Ok(Err(never)) => match never {},
                // The panic itself was logged where it happened (`telemetry::logs`).
                Err(_) => Problem::internal_error().into_response(),
            };
            let headers = response.headers_mut();
            headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
            if !headers.contains_key(header::CONTENT_SECURITY_POLICY) {
                let policy = HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'");
                headers.insert(header::CONTENT_SECURITY_POLICY, policy);
            }
            headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
            let route = route.as_ref().map_or("none", MatchedPath::as_str);
            state.times.record(route, response.status().as_u16(), started.elapsed().as_secs_f64());
            Ok(response)
        })
    }
}
