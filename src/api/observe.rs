//! What every answer gets: its time is measured, and browsers are told to trust nothing in it.

use std::convert::Infallible;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use arc_swap::ArcSwap;
use axum::extract::{MatchedPath, Request};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use futures_util::FutureExt as _;
use metrics::Histogram;
use tokio::time::Instant;
use tower::{Layer, Service};

use super::problem::Problem;
use crate::telemetry::metrics::HTTP_REQUEST_SECONDS;

/// One route's histograms by status, so that a request looks up a handle instead of registering labels.
#[derive(Default)]
struct RouteTimes(ArcSwap<Vec<(StatusCode, Histogram)>>);

impl RouteTimes {
    fn record(&self, route: &str, status: StatusCode, seconds: f64) {
        if let Some((_, histogram)) = self.0.load().iter().find(|(known, _)| *known == status) {
            histogram.record(seconds);
            return;
        }
        // Both labels are from closed sets: the patterns of routes, and the statuses that we send.
        let histogram = metrics::histogram!(
            HTTP_REQUEST_SECONDS, "role" => "api", "route" => route.to_owned(), "status" => status.as_str().to_owned()
        );
        histogram.record(seconds);
        self.0.rcu(|times| {
            let mut times = Vec::clone(times);
            // Somebody else may have been first.
            if times.iter().all(|(known, _)| *known != status) {
                times.push((status, histogram.clone()));
            }
            times
        });
    }
}

/// The one layer around every route: each layer of a router boxes the request's future once more, so what every answer
/// needs is done here together.
#[derive(Debug, Clone)]
pub struct Observe;

/// A route under observation: each is wrapped on its own, so its times are its own.
#[derive(Clone)]
pub struct Observed<S> {
    times: Arc<RouteTimes>,
    route: S,
}

impl<S> Layer<S> for Observe {
    type Service = Observed<S>;

    fn layer(&self, route: S) -> Observed<S> {
        Observed { times: Arc::default(), route }
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
        let times = Arc::clone(&self.times);
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
            times.record(route, response.status(), started.elapsed().as_secs_f64());
            Ok(response)
        })
    }
}
