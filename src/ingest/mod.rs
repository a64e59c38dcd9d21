//! The door in: authenticates, limits, validates, enqueues and answers with a receipt.
//!
//! An answer of 2xx is given only after Redis acknowledged every event it calls accepted. Overload is refused, never
//! absorbed: bodies, batches, tables and the queue all have a bound and an answer (ARCHITECTURE.md#invariants).

mod authentication;
pub mod batch;
mod body;
mod body_hash;
mod call;
mod enqueue;
mod events;
pub mod formats;
mod idempotency;
pub mod limits;
mod measure;
pub mod receipt;
mod refuse;
pub mod settings;
mod state;
pub mod validate;
pub mod wire_event;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderValue, Request, Response, header};
use axum::routing::post;

pub use state::{DoorSettings, IngestState, open};

use call::Call;

const EVENTS: &str = "/v1/events";

/// The public routes of ingest. The listener puts the peer's address into the request's extensions as
/// `ConnectInfo<SocketAddr>`.
pub fn router(state: IngestState) -> Router {
    Router::new()
        .route(EVENTS, post(post_events))
        .method_not_allowed_fallback(wrong_method)
        .fallback(nothing_here)
        .with_state(state)
}

async fn post_events(State(state): State<IngestState>, request: Request<Body>) -> Response<Body> {
    let mut call = Call::begin(&state.0, &request, EVENTS);
    let response = match events::receive(&mut call, request).await {
        Ok(response) => response,
        Err(problem) => call.refuse(problem).await,
    };
    call.finish(response)
}

async fn wrong_method(State(state): State<IngestState>, request: Request<Body>) -> Response<Body> {
    let mut call = Call::begin(&state.0, &request, EVENTS);
    let mut response = call.refuse(refuse::method_not_allowed()).await;
    response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("POST"));
    call.finish(response)
}

async fn nothing_here(State(state): State<IngestState>, request: Request<Body>) -> Response<Body> {
    let mut call = Call::begin(&state.0, &request, "other");
    let response = call.refuse(refuse::not_found()).await;
    call.finish(response)
}
