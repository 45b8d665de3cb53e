//! `/v1/openapi.json`: what this door answers to, as OpenAPI 3.1.
//!
//! Promises: every route and method of the table of routes is described, and nothing else (a test
//! compares the two); the shapes are those of `wire`.
//!
//! Not here: what the calls promise (docs/rest.md).

use http::StatusCode;
use serde_json::{Map, Value, json};

use crate::{Inner, call, error::Answer};

mod operations;
mod schemas;

use operations::{Body, OPERATIONS, Operation, Out};

/// `GET /v1/openapi.json`.
pub(crate) fn get(inner: &Inner) -> Answer {
    Ok(call::json(StatusCode::OK, &document(&inner.options.version))?)
}

/// The whole document.
fn document(version: &str) -> Value {
    let mut paths = Map::new();
    for operation in OPERATIONS {
        let item = paths.entry(operation.path).or_insert_with(|| json!({}));
        if let Some(item) = item.as_object_mut() {
            item.insert(operation.method.to_lowercase(), describe(operation));
        }
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Larder",
            "version": version,
            "description": "Files over HTTP. The promises of each call are in docs/rest.md.",
            "license": { "name": "Apache-2.0 or MIT", "identifier": "Apache-2.0 OR MIT" },
        },
        "paths": paths,
        "security": [{ "basic": [] }, { "bearer": [] }],
        "components": {
            "securitySchemes": {
                "basic": { "type": "http", "scheme": "basic" },
                "bearer": { "type": "http", "scheme": "bearer" },
            },
            "schemas": schemas::all(),
        },
    })
}

fn describe(operation: &Operation) -> Value {
    let mut parameters: Vec<Value> = Vec::new();
    for name in operation.path.split('{').skip(1).filter_map(|rest| rest.split('}').next()) {
        parameters.push(json!({
            "name": name, "in": "path", "required": true, "schema": { "type": "string" },
        }));
    }
    for (name, kind) in operation.query {
        parameters.push(json!({
            "name": name, "in": "query", "required": false, "schema": schemas::parameter(kind),
        }));
    }
    for name in operation.headers {
        parameters.push(json!({
            "name": name, "in": "header", "required": false, "schema": { "type": "string" },
        }));
    }
    let mut responses = Map::new();
    for (status, out) in operation.answers {
        responses.insert(status.to_string(), answer(out));
    }
    let problem = json!({
        "description": "A problem: act on its `code`.",
        "content": { "application/problem+json": { "schema": reference("Problem") } },
    });
    // Other refusals than those of a call's own: docs/errors.md has all of them.
    responses.insert("default".to_owned(), problem);
    let mut described = Map::new();
    let mut say = |name: &str, value: Value| drop(described.insert(name.to_owned(), value));
    say("summary", operation.summary.into());
    say("operationId", operation.id().into());
    say("parameters", parameters.into());
    say("responses", responses.into());
    if let Some(body) = request(operation.body) {
        say("requestBody", body);
    }
    if operation.open {
        say("security", json!([]));
    }
    described.into()
}

fn request(body: Body) -> Option<Value> {
    let (media, schema, required) = match body {
        Body::Nothing => return None,
        Body::Json(name) => ("application/json", reference(name), true),
        Body::MaybeJson(name) => ("application/json", reference(name), false),
        Body::Bytes(media) => (media, json!({}), true),
    };
    Some(json!({ "required": required, "content": { media: { "schema": schema } } }))
}

fn answer(out: &Out) -> Value {
    match out {
        Out::Nothing => json!({ "description": "Done." }),
        Out::Json(name) => json!({
            "description": "Done.",
            "content": { "application/json": { "schema": reference(name) } },
        }),
        Out::Bytes(media) => json!({
            "description": "The content.",
            "content": { *media: { "schema": {} } },
        }),
    }
}

fn reference(name: &str) -> Value {
    json!({ "$ref": format!("#/components/schemas/{name}") })
}

impl Operation {
    /// A name for generated clients: the method and the fixed parts of the path.
    fn id(&self) -> String {
        let mut id = self.method.to_lowercase();
        for part in self.path.split(['/', '{', '}', '.', '_']).filter(|part| !part.is_empty()) {
            id.extend(part.chars().take(1).flat_map(char::to_uppercase));
            id.extend(part.chars().skip(1));
        }
        id
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::route::{NONE, Route, TABLE};

    #[test]
    fn every_route_and_method_is_described_and_nothing_else() {
        let mut described = BTreeSet::new();
        for operation in OPERATIONS {
            let path = operation.path.replace(['{', '}'], "");
            let route = Route::find(&path).unwrap_or_else(|| panic!("{path} is no route"));
            described.insert((route.class(), operation.method.to_owned()));
        }
        let mut routed = BTreeSet::new();
        for (class, (_, methods)) in TABLE.iter().enumerate().filter(|(class, _)| *class != NONE) {
            // HEAD is GET without its body, where it is nothing of its own.
            let own = |method: &&str| *method != "HEAD" || !methods.contains("GET");
            for method in methods.split(", ").filter(own) {
                routed.insert((class, method.to_owned()));
            }
        }
        described.retain(|(class, method)| method != "HEAD" || !TABLE[*class].1.contains("GET"));
        let name = |set: &BTreeSet<(usize, String)>| -> Vec<String> {
            set.iter().map(|(class, method)| format!("{method} {}", TABLE[*class].0)).collect()
        };
        assert_eq!(name(&described), name(&routed));
    }

    #[test]
    fn every_schema_that_is_named_exists_and_every_name_is_used_once() {
        let document = document("0");
        let text = document.to_string();
        let schemas = document["components"]["schemas"].as_object().expect("schemas");
        for part in text.split("#/components/schemas/").skip(1) {
            let name = part.split('"').next().expect("a name");
            assert!(schemas.contains_key(name), "{name} is not there");
        }
        for name in schemas.keys() {
            assert!(text.contains(&format!("#/components/schemas/{name}\"")), "{name} is not used");
        }
        let ids: Vec<String> = OPERATIONS.iter().map(Operation::id).collect();
        assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), ids.len(), "ids are unique");
    }
}
