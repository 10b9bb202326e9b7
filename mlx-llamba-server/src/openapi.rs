//! `GET /openapi.json`: the description of the server, from the table of addresses and the types of
//! requests and answers.

use mlx_llamba_engine::Engine;
use serde_json::{Map, Value, json};

use crate::options::Options;
use crate::problem::Body;
use crate::request::schemas::Schemas;
use crate::routes::{Content, Route, routes};

/// Errors of every address.
const EVERY: [u16; 3] = [401, 403, 503];

/// The whole description.
pub(crate) fn describe(engine: &Engine, options: &Options) -> Value {
    let mut schemas = Schemas::new();
    let error = json!(schemas.answer::<Body>());
    let mut paths = Map::new();
    for route in routes(&mut schemas) {
        let path = paths.entry(route.path.replace("{*", "{")).or_insert_with(|| json!({}));
        path[route.method] = operation(&route, &error);
    }
    let mut description = json!({
        "openapi": "3.1.0",
        "info": { "title": "mlx-llamba", "version": env!("CARGO_PKG_VERSION") },
        "paths": paths,
        "components": { "schemas": schemas.definitions(engine, options) },
    });
    if !options.api_keys.is_empty() {
        let scheme = json!({ "key": { "type": "http", "scheme": "bearer" } });
        description["components"]["securitySchemes"] = scheme;
        description["security"] = json!([{ "key": [] }]);
    }
    description
}

fn operation(route: &Route, error: &Value) -> Value {
    let content = |contents: &[Content]| {
        let all =
            contents.iter().map(|(kind, schema)| ((*kind).to_owned(), json!({ "schema": schema })));
        Value::Object(all.collect())
    };
    let success = json!({ "description": "Success", "content": content(&route.answers) });
    let mut answers = Map::from_iter([("200".to_owned(), success)]);
    for code in EVERY.iter().chain(route.errors) {
        let content = json!({ "application/json": { "schema": error } });
        let mut answer = json!({ "description": "An error", "content": content });
        if *code == 429 {
            answer["headers"] = json!({ "Retry-After": { "schema": { "type": "integer" } } });
        }
        answers.insert(code.to_string(), answer);
    }
    let mut operation = json!({ "operationId": route.name, "responses": answers });
    if let Some(body) = &route.body {
        let content = content(std::slice::from_ref(body));
        operation["requestBody"] = json!({ "required": true, "content": content });
    }
    if let Some((_, name)) = route.path.split_once('{') {
        let name = name.split('}').next().unwrap_or_default().trim_start_matches('*');
        let schema = json!({ "type": "string", "minLength": 1 });
        operation["parameters"] =
            json!([{ "name": name, "in": "path", "required": true, "schema": schema }]);
    }
    // These ask for no key.
    if route.open {
        operation["security"] = json!([]);
    }
    operation
}
