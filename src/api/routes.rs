//! Every route of the api, in one list.

use axum::Router;
use axum::extract::Request;
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{MethodRouter, delete, get, patch, post, put};
use tower_http::cors::{AllowOrigin, CorsLayer};

use super::admin;
use super::entries;
use super::leaderboards;
use super::observe::Observe;
use super::openapi;
use super::problem::{Problem, no_such_route};
use super::state::ApiState;

type Route = MethodRouter<ApiState>;

/// What may be read, under `/v1` with a key and under `/v1/public/{game}` without.
fn reading() -> [(&'static str, Route); 7] {
    [
        ("/leaderboards", get(leaderboards::list)),
        ("/leaderboards/{slug}", get(leaderboards::definition)),
        ("/leaderboards/{slug}/periods", get(leaderboards::periods_of)),
        ("/leaderboards/{slug}/entries", get(entries::page)),
        // `get`: a player may be called "lookup".
        ("/leaderboards/{slug}/entries/lookup", post(entries::lookup).get(entries::standing)),
        ("/leaderboards/{slug}/entries/{player}", get(entries::standing)),
        ("/leaderboards/{slug}/entries/{player}/around", get(entries::around)),
    ]
}

fn administration() -> Vec<(&'static str, Route)> {
    vec![
        ("/v1/admin/games", get(admin::games::list).post(admin::games::create)),
        ("/v1/admin/games/{slug}", patch(admin::games::edit)),
        ("/v1/admin/keys", get(admin::keys::list).post(admin::keys::create)),
        ("/v1/admin/keys/{id}", delete(admin::keys::revoke)),
        ("/v1/admin/leaderboards", get(admin::leaderboards::list).post(admin::leaderboards::create)),
        (
            "/v1/admin/leaderboards/{slug}",
            put(admin::leaderboards::put).get(admin::leaderboards::show).delete(admin::leaderboards::delete),
        ),
        ("/v1/admin/dead-letters", get(admin::dead_letters::list)),
        ("/v1/admin/dead-letters/discard", post(admin::dead_letters::discard)),
        ("/v1/admin/dead-letters/replay", post(admin::dead_letters::replay)),
        ("/v1/admin/dead-letters/{id}", get(admin::dead_letters::show)),
        ("/v1/admin/audit", get(admin::audit::last)),
        ("/v1/admin/audit-log", get(admin::audit_log::list)),
        ("/v1/admin/queues", get(admin::queues::list)),
        ("/v1/admin/queues/{name}/pause", post(admin::queues::pause)),
        ("/v1/admin/queues/{name}/resume", post(admin::queues::resume)),
        ("/v1/admin/partitions", get(admin::upkeep::list_partitions)),
        ("/v1/admin/leaderboards/{slug}/recompute", post(admin::upkeep::recompute)),
    ]
}

/// What takes as long as a leaderboard is large, and sees to its own end.
fn long_work() -> (&'static str, Route) {
    ("/v1/admin/leaderboards/{slug}/rebuild", post(admin::upkeep::rebuild))
}

fn all() -> Vec<(String, Route)> {
    let public_and_not = ["/v1", "/v1/public/{game}"]
        .into_iter()
        .flat_map(|prefix| reading().map(|(path, route)| (format!("{prefix}{path}"), route)));
    let whole = |route: Route| route.layer(from_fn(to_its_end));
    let administration = administration().into_iter().map(|(path, route)| (path, whole(route))).chain([long_work()]);
    public_and_not.chain(administration.map(|(path, route)| (path.to_owned(), route))).collect()
}

/// Runs a change in a task of its own: a client that goes away does not end it half way, between its commit and what
/// others are to hear of it. How many are at work at once is up to `change`.
async fn to_its_end(request: Request, next: Next) -> Response {
    if matches!(*request.method(), Method::GET | Method::HEAD) {
        return next.run(request).await;
    }
    // A panic was logged where it happened (`telemetry::logs`).
    tokio::spawn(next.run(request)).await.unwrap_or_else(|_| Problem::internal_error().into_response())
}

/// The api's router. Serve it with [`axum::extract::ConnectInfo`] of the peer in each request.
pub fn router(state: ApiState) -> Router {
    let mut router = all().into_iter().fold(Router::new(), |router, (path, route)| router.route(&path, route));
    router = router
        .merge(openapi::routes())
        .fallback(|| async { no_such_route() })
        .method_not_allowed_fallback(|| async {
            let detail = "This route exists, but not with this method; see /docs.";
            Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", detail)
        })
        .layer(Observe);
    if !state.http.cors_origins.is_empty() {
        router = router.layer(cors(&state.http.cors_origins));
    }
    router.with_state(state)
}

fn cors(origins: &[String]) -> CorsLayer {
    let origins = if origins.iter().any(|o| o == "*") {
        AllowOrigin::any()
    } else {
        AllowOrigin::list(origins.iter().filter_map(|o| HeaderValue::from_str(o).ok()))
    };
    CorsLayer::new()
        .allow_origin(origins)
        .allow_methods([Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE])
        .allow_headers([header::AUTHORIZATION, header::CONTENT_TYPE, header::IF_NONE_MATCH])
        .expose_headers([header::ETAG, header::RETRY_AFTER, header::DATE])
        .max_age(std::time::Duration::from_secs(3_600))
}
