//! `GET /openapi.json`: what is served, from the types that serve it.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use schemars::generate::{SchemaGenerator, SchemaSettings};
use schemars::{JsonSchema, Schema};
use serde_json::{Map, Value, json};

use crate::api::App;
use crate::api::chat::{ChatChunk, ChatCompletion, ChatRequest};
use crate::api::completions::{Completion, CompletionRequest};
use crate::api::models::{Health, Model, ModelList};
use crate::problem::Body;

/// Answers that any address may give, and those of addresses that take a body.
const READING: [u16; 3] = [401, 403, 503];
const SENDING: [u16; 11] = [400, 401, 403, 404, 408, 413, 415, 429, 500, 503, 504];

/// `GET /openapi.json`
pub(crate) async fn get(State(app): State<Arc<App>>) -> Json<Value> {
    Json(describe(&app))
}

/// Collects the schemas of both directions.
struct Schemas {
    requests: SchemaGenerator,
    answers: SchemaGenerator,
}

impl Schemas {
    fn new() -> Self {
        let settings = || {
            let mut settings = SchemaSettings::draft2020_12();
            settings.definitions_path = "/components/schemas".into();
            settings
        };
        Self {
            requests: settings().for_deserialize().into_generator(),
            answers: settings().for_serialize().into_generator(),
        }
    }

    fn request<T: JsonSchema>(&mut self) -> Schema {
        self.requests.subschema_for::<T>()
    }

    fn answer<T: JsonSchema>(&mut self) -> Schema {
        self.answers.subschema_for::<T>()
    }

    fn definitions(mut self) -> Map<String, Value> {
        let mut all = self.requests.take_definitions(false);
        all.extend(self.answers.take_definitions(false));
        all
    }
}

/// The whole description.
pub(crate) fn describe(app: &App) -> Value {
    let mut schemas = Schemas::new();
    let error = schemas.answer::<Body>();
    let answers = |codes: &[u16], good: Value| {
        let mut answers = Map::from_iter([("200".to_owned(), good)]);
        for code in codes {
            let mut answer = json!({
                "description": "An error",
                "content": { "application/json": { "schema": error } },
            });
            if *code == 429 {
                let integer = json!({ "schema": { "type": "integer" } });
                answer["headers"] = json!({ "Retry-After": integer });
            }
            answers.insert(code.to_string(), answer);
        }
        Value::Object(answers)
    };
    let content = |kind: &str, schema: Value| json!({ "description": "Success", "content": { kind: { "schema": schema } } });
    let read = |id: &str, codes: &[u16], good: Value| json!({ "operationId": id, "responses": answers(codes, good) });
    let send = |id: &str, request: Schema, whole: Schema, chunk: Schema| {
        let good = json!({
            "description": "The whole answer; with stream: true a stream of events, each with a \
                            chunk or an error as JSON, and [DONE] after the last one",
            "content": {
                "application/json": { "schema": whole },
                "text/event-stream": { "schema": { "type": "string" }, "x-event-data": chunk },
            },
        });
        let body =
            json!({ "required": true, "content": { "application/json": { "schema": request } } });
        json!({ "operationId": id, "requestBody": body, "responses": answers(&SENDING, good) })
    };

    let model = schemas.answer::<Model>();
    let get_model = read(
        "getModel",
        &[&READING[..], &[404]].concat(),
        content("application/json", json!(model)),
    );
    let with_name = |mut operation: Value| {
        let schema = json!({ "type": "string", "minLength": 1 });
        operation["parameters"] =
            json!([{ "name": "model", "in": "path", "required": true, "schema": schema }]);
        operation
    };
    let list = content("application/json", json!(schemas.answer::<ModelList>()));
    let health = content("application/json", json!(schemas.answer::<Health>()));
    let text = content("text/plain", json!({ "type": "string" }));
    let any = content("application/json", json!({ "type": "object" }));
    let completion = (
        schemas.request::<CompletionRequest>(),
        schemas.answer::<Completion>(),
        schemas.answer::<Completion>(),
    );
    let chat = (
        schemas.request::<ChatRequest>(),
        schemas.answer::<ChatCompletion>(),
        schemas.answer::<ChatChunk>(),
    );
    // These ask for no key.
    let open = |mut operation: Value| {
        operation["security"] = json!([]);
        operation
    };
    let paths = json!({
        "/v1/models": { "get": read("listModels", &READING, list) },
        "/v1/models/{model}": { "get": with_name(get_model) },
        "/v1/completions": {
            "post": send("createCompletion", completion.0, completion.1, completion.2),
        },
        "/v1/chat/completions": {
            "post": send("createChatCompletion", chat.0, chat.1, chat.2),
        },
        "/health": { "get": open(read("health", &[403, 503], health)) },
        "/metrics": { "get": read("metrics", &[401, 403], text) },
        "/openapi.json": { "get": open(read("openapi", &[403], any)) },
    });
    let mut definitions = schemas.definitions();
    bounds(app, &mut definitions);
    let mut description = json!({
        "openapi": "3.1.0",
        "info": { "title": "mlx-llamba", "version": env!("CARGO_PKG_VERSION") },
        "paths": paths,
        "components": { "schemas": definitions },
    });
    if !app.options.api_keys.is_empty() {
        let scheme = json!({ "key": { "type": "http", "scheme": "bearer" } });
        description["components"]["securitySchemes"] = scheme;
        description["security"] = json!([{ "key": [] }]);
    }
    description
}

/// Bounds that this server's options and model set.
fn bounds(app: &App, definitions: &mut Map<String, Value>) {
    let limits = &app.options.limits;
    let vocab = app.engine.vocab();
    for schema in definitions.values_mut() {
        walk(schema, &mut |object| match object.get("format").and_then(Value::as_str) {
            Some("uint32") => {
                object.entry("maximum").or_insert(json!(u32::MAX));
            }
            Some("int64") => {
                object.entry("minimum").or_insert(json!(i64::MIN));
                object.entry("maximum").or_insert(json!(i64::MAX));
            }
            _ => {}
        });
    }
    if let Some(prompt) = definitions.get_mut("Prompt") {
        walk(prompt, &mut |object| {
            if object.get("type") == Some(&json!("integer")) {
                object.insert("maximum".to_owned(), json!(vocab - 1));
            }
        });
        if let Some(kinds) = prompt.get_mut("anyOf").and_then(Value::as_array_mut) {
            for kind in kinds.iter_mut().filter(|kind| kind["type"] == "array") {
                let tokens = kind["items"]["type"] == "integer";
                let most = if tokens { limits.prompt_tokens } else { limits.choices };
                kind["maxItems"] = json!(most);
            }
        }
    }
    for request in ["CompletionRequest", "ChatRequest"] {
        let Some(fields) = definitions.get_mut(request).and_then(|r| r.get_mut("properties"))
        else {
            continue;
        };
        fields["model"] = json!({ "type": "string", "const": app.options.model });
        fields["n"]["maximum"] = json!(app.engine.slots().min(limits.choices));
        for name in ["max_tokens", "max_completion_tokens"] {
            if fields.get(name).is_some() {
                fields[name]["maximum"] = json!(limits.max_tokens);
            }
        }
        let bias = &mut fields["logit_bias"];
        bias["maxProperties"] = json!(4096);
        bias["propertyNames"] = json!({ "pattern": below(vocab) });
        bias["additionalProperties"]["minimum"] = json!(-100);
        bias["additionalProperties"]["maximum"] = json!(100);
    }
}

/// Calls `change` for every object in `value`.
fn walk(value: &mut Value, change: &mut impl FnMut(&mut Map<String, Value>)) {
    match value {
        Value::Object(object) => {
            change(object);
            object.values_mut().for_each(|value| walk(value, change));
        }
        Value::Array(values) => values.iter_mut().for_each(|value| walk(value, change)),
        _ => {}
    }
}

/// A pattern of the decimal numbers from 0 to `end - 1`, without leading zeros.
fn below(end: usize) -> String {
    let digits = end.to_string();
    let mut kinds = vec!["0".to_owned()];
    // Numbers with fewer digits.
    kinds.extend((1..digits.len()).map(|n| format!("[1-9][0-9]{{{}}}", n - 1)));
    // Numbers that have the first digits of `end` and then a smaller one.
    for (i, digit) in digits.bytes().enumerate() {
        let least = if i == 0 { b'1' } else { b'0' };
        if digit > least {
            let (before, rest) = (&digits[..i], digits.len() - i - 1);
            let (low, high) = (char::from(least), char::from(digit - 1));
            kinds.push(format!("{before}[{low}-{high}][0-9]{{{rest}}}"));
        }
    }
    format!("^({})$", kinds.join("|"))
}
