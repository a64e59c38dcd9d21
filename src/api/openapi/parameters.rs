//! What a parameter may be, by its name: the same everywhere.

use serde_json::{Value, json};
use utoipa::openapi::path::{Operation, ParameterIn};

/// Gives every parameter of an operation its shape.
pub fn shape(path: &str, operation: &mut Operation) {
    for parameter in operation.parameters.iter_mut().flatten() {
        let utoipa::openapi::RefOr::T(parameter) = parameter else { continue };
        // What a path names may be anything: what does not exist is 404.
        let named = parameter.parameter_in == ParameterIn::Path;
        if named && parameter.name != "player" {
            continue;
        }
        let Some(schema) = schema_of(path, &parameter.name) else { continue };
        match serde_json::from_value(schema) {
            Ok(schema) => parameter.schema = Some(schema),
            // The test of the document says which.
            Err(error) => tracing::error!(%error, parameter = parameter.name, "a parameter's schema is damaged"),
        }
    }
}

fn schema_of(path: &str, name: &str) -> Option<Value> {
    let identifier = || json!({"$ref": "#/components/schemas/Identifier"});
    Some(match name {
        "player" | "kind" | "reason" => identifier(),
        "state" => json!({"type": "string", "enum": ["waiting", "replayed", "discarded", "all"]}),
        "period" => json!({"type": "string", "pattern": "^(current|previous|[0-9]{1,18})$"}),
        "include" => json!({"type": "string", "pattern": "^(plays|metadata|plays,metadata|metadata,plays)?$"}),
        "cursor" => json!({"type": "string", "pattern": "^[A-Za-z0-9_-]{83,300}$"}),
        "before" if path.ends_with("/periods") => json!({"type": "string", "format": "date-time"}),
        "after" => json!({"type": "string", "pattern": "^[0-9]{1,17}_[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$"}),
        _ => return None,
    })
}
