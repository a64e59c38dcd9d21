//! The refusals that a route may give, for the document. They follow from what every handler goes through: the key
//! (`access`), the query and the path (`query`, `reading`), the body (`body`), Postgres and Redis behind it.

use utoipa::openapi::path::{HttpMethod, Operation};
use utoipa::openapi::response::ResponseBuilder;
use utoipa::openapi::schema::{ObjectBuilder, Type};
use utoipa::openapi::{ContentBuilder, HeaderBuilder, Ref, RefOr, Response};

/// Declares every refusal of an operation, and names what the other answers are.
pub fn declare(path: &str, method: &HttpMethod, operation: &mut Operation) {
    for (status, codes) in refusals(path, method, operation.request_body.is_some()) {
        operation.responses.responses.insert(status.to_owned(), RefOr::T(problem(status, codes)));
    }
    for (status, response) in &mut operation.responses.responses {
        if let RefOr::T(response) = response
            && response.description.is_empty()
        {
            response.description = if status == "201" { "It was created" } else { "The answer" }.to_owned();
        }
    }
}

fn problem(status: &str, codes: &str) -> Response {
    if status == "304" {
        return ResponseBuilder::new().description(codes).build();
    }
    let content = ContentBuilder::new().schema(Some(Ref::from_schema_name("Problem"))).build();
    let response = ResponseBuilder::new().description(codes).content("application/problem+json", content);
    if !matches!(status, "429" | "503") {
        return response.build();
    }
    let seconds = ObjectBuilder::new().schema_type(Type::Integer).build();
    let header = HeaderBuilder::new().schema(Some(seconds)).description(Some("Seconds")).build();
    response.header("Retry-After", header).build()
}

fn refusals(path: &str, method: &HttpMethod, body: bool) -> Vec<(&'static str, &'static str)> {
    let admin = path.starts_with("/v1/admin/");
    let mut all = vec![("500", "`internal_error`: a bug, which is logged"), ("503", unavailable(path))];
    if !path.starts_with("/v1/public/") {
        all.push(("401", "`key_missing`, `key_unknown`"));
        let changes = matches!(method, HttpMethod::Post | HttpMethod::Put | HttpMethod::Delete);
        all.push((
            "429",
            if admin && changes {
                "`too_many_unknown_keys`: wait before trying the next key; `too_many_changes`: this game changes too often"
            } else {
                "`too_many_unknown_keys`: wait before trying the next key"
            },
        ));
    } else {
        all.push(("429", "`too_many_reads`: this address has asked for too much that no cache has"));
    }
    if admin {
        all.push(("403", "`server_key_required`, `admin_token_required`: this key may not do it"));
    }
    all.push((
        "400",
        "A parameter or the body is unusable; `field` says which, and the code why (`ProblemCode` lists them all)",
    ));
    if body {
        all.push(("408", "`body_timeout`"));
        all.push(("413", "`body_too_large`; `limit` says how much may be sent"));
    }
    if admin {
        all.push(("404", "`game_not_found`, or what the path names does not exist"));
        all.extend(of_changes(path, method));
    } else if path.ends_with("/leaderboards") {
        all.push(("404", "`game_not_found`"));
    } else {
        all.push(("404", "`leaderboard_not_found`, `period_not_found`, `no_entry`, `game_not_found`"));
    }
    if !admin && *method == HttpMethod::Get {
        all.push(("304", "`If-None-Match` matched"));
    }
    all
}

fn unavailable(path: &str) -> &'static str {
    if path.starts_with("/v1/admin/queues") || path.ends_with("/replay") {
        "`queue_unreachable`, `database_unavailable`, `too_many_connections`"
    } else if path.ends_with("/rebuild") {
        "`rebuild_failed`, `leaderboard_rebuilding`, `database_unavailable`, `too_many_connections`"
    } else if path.starts_with("/v1/admin/") {
        "`database_unavailable`, `too_many_connections`"
    } else {
        "`leaderboard_rebuilding`, `database_unavailable`, `too_many_connections`"
    }
}

/// What only some changes answer.
fn of_changes(path: &str, method: &HttpMethod) -> Vec<(&'static str, &'static str)> {
    let definition = path.starts_with("/v1/admin/leaderboards");
    match (path, method) {
        ("/v1/admin/games", HttpMethod::Post) => vec![("409", "`game_exists`")],
        ("/v1/admin/keys", HttpMethod::Post) => vec![("409", "`too_many_keys`: `limit` says how many there may be")],
        (path, HttpMethod::Post) if path.ends_with("/rebuild") => vec![("409", "`rebuild_under_way`")],
        (path, HttpMethod::Post) if path.ends_with("/recompute") => vec![
            ("409", "`recompute_under_way`: it is being computed anew already"),
            ("422", "The definition is unusable; `field` says where, and the code why"),
        ],
        (_, HttpMethod::Post | HttpMethod::Put) if definition => vec![
            (
                "409",
                "`history_incomplete`: events that it needs are no longer stored; `too_many_leaderboards`, \
                 `too_many_leaderboards_of_type`, `definitions_too_large`: `limit` says how much a game may have",
            ),
            ("422", "The definition is unusable; `field` says where, and the code why"),
        ],
        _ => Vec::new(),
    }
}
