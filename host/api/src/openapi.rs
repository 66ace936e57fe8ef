//! The OpenAPI 3.1 document, made from the same declarations as the router and the wire structs' own schemas.

use axum::http::Method;
use schemars::SchemaGenerator;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

use crate::problem::PROBLEM_JSON;
use crate::routing::{AnswerKind, BodyKind, Operation};

/// Builds the document of all routes.
pub(crate) fn document(operations: &[(Method, &'static str, Operation)]) -> Value {
    let mut generator = SchemaSettings::draft2020_12()
        .with(|settings| settings.definitions_path = "/components/schemas".into())
        .into_generator();
    let mut paths: Map<String, Value> = Map::new();
    for (method, path, operation) in operations {
        let entry = describe(path, operation, &mut generator);
        let item = paths.entry((*path).to_owned()).or_insert_with(|| json!({}));
        item[method.as_str().to_ascii_lowercase()] = entry;
    }
    let mut schemas: Map<String, Value> = generator.take_definitions(true);
    schemas.insert("Problem".to_owned(), problem_schema());
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Tidemark",
            "version": env!("CARGO_PKG_VERSION"),
            "license": { "name": "Apache-2.0", "identifier": "Apache-2.0" },
            "description": "Backups of virtual machines. Errors are RFC 9457 problem documents; long work \
                            answers 202 with the job's Location; lists page by cursor.",
        },
        "servers": [{ "url": "/" }],
        "security": [{ "bearer": [] }],
        "paths": paths,
        "components": {
            "securitySchemes": { "bearer": { "type": "http", "scheme": "bearer" } },
            "schemas": schemas,
        },
    })
}

fn describe(path: &str, operation: &Operation, generator: &mut SchemaGenerator) -> Value {
    let Operation { id, summary, role, query, body, status, answer, idempotent } = operation;
    let mut parameters: Vec<Value> = path_parameters(path)
        .map(|name| json!({ "name": name, "in": "path", "required": true, "schema": { "type": "string" } }))
        .collect();
    if let Some(make) = query {
        parameters.extend(query_parameters(make(generator).as_value(), generator));
    }
    if *idempotent {
        parameters.push(json!({
            "name": "Idempotency-Key", "in": "header", "required": false, "schema": { "type": "string" },
            "description": "Repeating a request with the same key answers with the first request's job.",
        }));
    }
    if matches!(answer, AnswerKind::Bytes(_)) {
        parameters.push(json!({
            "name": "Range", "in": "header", "required": false, "schema": { "type": "string" },
            "description": "One range of bytes, where the answer says Accept-Ranges: bytes.",
        }));
    }
    let mut entry = json!({
        "operationId": id,
        "summary": summary,
        "tags": [tag(path)],
        "parameters": parameters,
        "responses": responses(*status, *answer, generator),
    });
    match role {
        Some(role) => entry["x-role"] = json!(role.as_str()),
        None => entry["security"] = json!([]),
    }
    if let Some(body) = body {
        entry["requestBody"] = match body {
            BodyKind::Json(make) => json!({
                "required": true,
                "content": { "application/json": { "schema": make(generator) } },
            }),
            BodyKind::Wasm => json!({
                "required": true,
                "content": { "application/wasm": { "schema": { "type": "string", "format": "binary" } } },
            }),
        };
    }
    entry
}

fn responses(status: u16, answer: AnswerKind, generator: &mut SchemaGenerator) -> Value {
    let mut good =
        json!({ "description": if status == 202 { "Accepted; Location names the job." } else { "Done." } });
    match answer {
        AnswerKind::Empty => {}
        AnswerKind::Json(make) => {
            good["content"] = json!({ "application/json": { "schema": make(generator) } });
        }
        AnswerKind::Text(media) => {
            good["content"] = json!({ media: { "schema": { "type": "string" } } });
        }
        AnswerKind::Bytes(media) => {
            good["content"] = json!({ media: { "schema": { "type": "string", "format": "binary" } } });
        }
    }
    let problem = json!({
        "description": "What went wrong.",
        "content": { PROBLEM_JSON: { "schema": { "$ref": "#/components/schemas/Problem" } } },
    });
    let mut all = json!({ status.to_string(): good, "default": problem });
    if matches!(answer, AnswerKind::Bytes(_)) {
        all["206"] = all[status.to_string()].clone();
        all["206"]["description"] = json!("The part that Range asks for.");
    }
    all
}

/// Each property of the query struct is a parameter of its own.
fn query_parameters(schema: &Value, generator: &SchemaGenerator) -> Vec<Value> {
    let name = schema.get("$ref").and_then(Value::as_str).and_then(|path| path.rsplit('/').next());
    let resolved = name.and_then(|name| generator.definitions().get(name)).unwrap_or(schema);
    let required = resolved.get("required").and_then(Value::as_array).cloned().unwrap_or_default();
    let Some(properties) = resolved.get("properties").and_then(Value::as_object) else { return Vec::new() };
    properties
        .iter()
        .map(|(name, schema)| {
            let needed = required.iter().any(|entry| entry == name);
            let words = schema.get("description").cloned().unwrap_or_default();
            json!({ "name": name, "in": "query", "required": needed, "description": words, "schema": schema })
        })
        .collect()
}

fn path_parameters(path: &str) -> impl Iterator<Item = &str> {
    path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'))
}

/// The noun after `/api/v1/`.
fn tag(path: &str) -> &str {
    path.strip_prefix("/api/v1/").unwrap_or(path).split('/').find(|part| !part.is_empty()).unwrap_or("server")
}

fn problem_schema() -> Value {
    json!({
        "type": "object",
        "description": "RFC 9457",
        "required": ["type", "title", "status", "detail", "kind"],
        "properties": {
            "type": { "type": "string", "description": "urn:tidemark:problem: followed by the kind" },
            "title": { "type": "string" },
            "status": { "type": "integer" },
            "detail": { "type": "string" },
            "kind": { "type": "string", "description": "A stable word, for example not-found or conflict" },
            "field": { "type": "string", "description": "The value at fault, where there is one" },
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_a_path_are_found() {
        let names: Vec<_> = path_parameters("/api/v1/plugins/{name}/versions/{version}").collect();
        assert_eq!(names, ["name", "version"]);
        assert_eq!(tag("/api/v1/backups/{id}"), "backups");
        assert_eq!(tag("/metrics"), "metrics");
    }
}
