//! The OpenAPI document, and its pages (which work offline).

use axum::Router;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use utoipa::OpenApi;
use utoipa::openapi::path::{HttpMethod, Operation, Parameter, ParameterBuilder, ParameterIn};
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::{ObjectBuilder, OpenApi as OpenApiDocument, PathItem, Required, Type};

mod answers;
pub mod codes;
mod parameters;
pub mod words;

use super::problem::{ProblemBody, no_such_route};
use super::state::ApiState;
use super::{admin, entries, leaderboards};

/// Everything that is annotated.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "Scoreline",
        description = "Event batches in, exactly-once leaderboards out. Every refusal is application/problem+json \
                       with a stable `code`.",
        license(name = "MIT OR Apache-2.0", identifier = "MIT OR Apache-2.0"),
    ),
    paths(
        leaderboards::list,
        leaderboards::definition,
        leaderboards::periods_of,
        entries::page,
        entries::standing,
        entries::around,
        entries::lookup,
        admin::games::create,
        admin::games::list,
        admin::games::edit,
        admin::keys::create,
        admin::keys::list,
        admin::keys::revoke,
        admin::leaderboards::create,
        admin::leaderboards::put,
        admin::leaderboards::list,
        admin::leaderboards::show,
        admin::leaderboards::delete,
        admin::dead_letters::list,
        admin::dead_letters::show,
        admin::dead_letters::discard,
        admin::dead_letters::replay,
        admin::audit::last,
        admin::audit_log::list,
        admin::queues::list,
        admin::queues::pause,
        admin::queues::resume,
        admin::upkeep::list_partitions,
        admin::upkeep::rebuild,
        admin::upkeep::recompute,
    ),
    components(schemas(
        ProblemBody,
        words::Identifier,
        words::Slug,
        words::Name,
        codes::ProblemCode,
        codes::EventCode
    )),
    tags(
        (name = "ingest", description = "Sending events"),
        (name = "leaderboards", description = "Reading leaderboards with a key"),
        (name = "public", description = "Reading public leaderboards without a key"),
        (name = "admin", description = "Administration: studios with a server key, operators with the admin token"),
    )
)]
struct Annotated;

/// Parts of the document that are written by hand: how events are sent, which the api does not serve and describes
/// because studios look for it here; and the definition of a leaderboard, which is text with more names than types.
const BY_HAND: [&str; 2] = [include_str!("../../ingest/openapi.json"), include_str!("definition.json")];

/// The OpenAPI document of both doors.
pub fn document() -> OpenApiDocument {
    let mut document = Annotated::openapi();
    let scheme = HttpBuilder::new()
        .scheme(HttpAuthScheme::Bearer)
        .description(Some("A client or server key of the game, or the operators' admin token."))
        .build();
    document.components.get_or_insert_default().add_security_scheme("key", SecurityScheme::Http(scheme));
    let public: Vec<(String, PathItem)> = document
        .paths
        .paths
        .iter()
        .filter_map(|(path, item)| Some((path.strip_prefix("/v1/leaderboards")?, item)))
        .map(|(rest, item)| (format!("/v1/public/{{game}}/leaderboards{rest}"), public_twin(item.clone())))
        .collect();
    document.paths.paths.extend(public);
    for (path, item) in &mut document.paths.paths {
        for (method, operation) in operations(item) {
            answers::declare(path, &method, operation);
            parameters::shape(path, operation);
        }
    }
    for part in BY_HAND {
        match serde_json::from_str::<OpenApiDocument>(part) {
            Ok(part) => {
                let schemas = part.components.clone().map(|components| components.schemas);
                document.merge(part);
                // What a type only refers to is said here.
                document.components.get_or_insert_default().schemas.extend(schemas.unwrap_or_default());
            }
            // A test reads them.
            Err(error) => tracing::error!(%error, "a part of the document is damaged"),
        }
    }
    // What most people come for stands first. The sort is stable: what stands together stays together.
    document.paths.paths.sort_by(|one, _, other, _| place(one).cmp(&place(other)));
    for (path, item) in &mut document.paths.paths {
        for (method, operation) in operations(item) {
            operation.operation_id = Some(operation_id(path, name_of(&method)));
        }
    }
    document
}

/// Where a path stands: sending events, reading a leaderboard, reading others, administration.
fn place(path: &str) -> usize {
    const FIRST: [&str; 3] = ["/v1/events", "/v1/leaderboards", "/v1/public/"];
    let of_entries = usize::from(!path.ends_with("/entries"));
    FIRST.iter().position(|first| path.starts_with(first)).unwrap_or(FIRST.len()) * 2 + of_entries
}

fn operations(item: &mut PathItem) -> impl Iterator<Item = (HttpMethod, &mut Operation)> {
    let all = [
        (HttpMethod::Get, &mut item.get),
        (HttpMethod::Post, &mut item.post),
        (HttpMethod::Put, &mut item.put),
        (HttpMethod::Patch, &mut item.patch),
        (HttpMethod::Delete, &mut item.delete),
    ];
    all.into_iter().filter_map(|(method, operation)| Some((method, operation.as_mut()?)))
}

fn name_of(method: &HttpMethod) -> &'static str {
    match method {
        HttpMethod::Get => "get",
        HttpMethod::Post => "post",
        HttpMethod::Put => "put",
        HttpMethod::Patch => "patch",
        _ => "delete",
    }
}

/// Unique, as the standard demands: `get_admin_leaderboards_slug`.
fn operation_id(path: &str, method: &str) -> String {
    let mut id = method.to_owned();
    for part in path.trim_start_matches("/v1").split('/').filter(|part| !part.is_empty()) {
        id.push('_');
        id.extend(part.chars().filter(|c| !matches!(c, '{' | '}')).map(|c| if c == '-' { '_' } else { c }));
    }
    id
}

/// The same route without a key, for leaderboards that are public.
fn public_twin(mut item: PathItem) -> PathItem {
    let game: Parameter = ParameterBuilder::new()
        .name("game")
        .parameter_in(ParameterIn::Path)
        .required(Required::True)
        .description(Some("The game"))
        .schema(Some(ObjectBuilder::new().schema_type(Type::String).build()))
        .build();
    for operation in [&mut item.get, &mut item.post].into_iter().flatten() {
        operation.security = None;
        operation.tags = Some(vec!["public".to_owned()]);
        operation.parameters.get_or_insert_default().insert(0, utoipa::openapi::RefOr::T(game.clone()));
    }
    item
}

/// `/openapi.json` and `/docs`.
pub fn routes() -> Router<ApiState> {
    let json = document().to_json().unwrap_or_default();
    let shown = document();
    // The pages bring their own scripts and styles, from this server only.
    let policy = HeaderValue::from_static(
        "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; \
         connect-src 'self'; frame-ancestors 'none'; base-uri 'none'",
    );
    let pages = Router::from(utoipa_swagger_ui::SwaggerUi::new("/docs").url("/docs/openapi.json", shown)).layer(
        axum::middleware::map_response(move |mut response: axum::response::Response| {
            if response.status() == StatusCode::NOT_FOUND {
                // Else it has no body, and does not say what it is.
                response = no_such_route().into_response();
            }
            response.headers_mut().insert(header::CONTENT_SECURITY_POLICY, policy.clone());
            async move { response }
        }),
    );
    let headers: [(HeaderName, HeaderValue); 2] = [
        (header::CONTENT_TYPE, HeaderValue::from_static("application/json")),
        (header::CACHE_CONTROL, HeaderValue::from_static("public, max-age=60")),
    ];
    let json = axum::body::Bytes::from(json);
    Router::new().route("/openapi.json", get(move || async move { (headers, json).into_response() })).merge(pages)
}
