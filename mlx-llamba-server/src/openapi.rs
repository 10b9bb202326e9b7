//! `GET /openapi.json`: what is served, from the types that serve it.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use schemars::generate::{SchemaGenerator, SchemaSettings};
use schemars::{JsonSchema, Schema};
use serde_json::{Map, Value, json};

use crate::api::App;
use crate::api::chat::{ChatChunk, ChatCompletion, ChatRequest, takes_tools};
use crate::api::completions::{Completion, CompletionRequest};
use crate::api::models::{Health, Model, ModelList};
use crate::api::sessions::{Deleted, RewindRequest, SessionAnswer, SessionRequest};
use crate::problem::Body;

/// Answers that any address may give, and those of addresses that take a body.
const READING: [u16; 3] = [401, 403, 503];
const SENDING: [u16; 12] = [400, 401, 403, 404, 408, 409, 413, 415, 429, 500, 503, 504];

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
    // An event's data are JSON of this schema, or [DONE].
    let event = |schema: Schema| {
        let data = json!({ "type": "string" });
        json!({
            "schema": { "type": "object", "properties": { "data": data }, "required": ["data"] },
            "x-event-data": schema,
        })
    };
    let stream = |whole: Schema, chunk: Schema| {
        json!({
            "description": "The whole answer; with stream: true a stream of events, each with a \
                            chunk or an error as JSON, and [DONE] after the last one",
            "content": {
                "application/json": { "schema": whole },
                "text/event-stream": event(chunk),
            },
        })
    };
    let send = |id: &str, kind: &str, request: Option<Value>, good: Value| {
        let mut operation = json!({ "operationId": id, "responses": answers(&SENDING, good) });
        if let Some(request) = request {
            let content = json!({ kind: { "schema": request } });
            operation["requestBody"] = json!({ "required": true, "content": content });
        }
        operation
    };

    let model = schemas.answer::<Model>();
    let get_model = read(
        "getModel",
        &[&READING[..], &[404]].concat(),
        content("application/json", json!(model)),
    );
    let with_name = |name: &str, mut operation: Value| {
        let schema = json!({ "type": "string", "minLength": 1 });
        operation["parameters"] =
            json!([{ "name": name, "in": "path", "required": true, "schema": schema }]);
        operation
    };
    let list = content("application/json", json!(schemas.answer::<ModelList>()));
    let health = content("application/json", json!(schemas.answer::<Health>()));
    let text = content("text/plain", json!({ "type": "string" }));
    let any = content("application/json", json!({ "type": "object" }));
    let json_kind = "application/json";
    let completion = stream(schemas.answer::<Completion>(), schemas.answer::<Completion>());
    let completion_request = Some(json!(schemas.request::<CompletionRequest>()));
    let chat = stream(schemas.answer::<ChatCompletion>(), schemas.answer::<ChatChunk>());
    let chat_request = Some(json!(schemas.request::<ChatRequest>()));
    // A session has one next message, and its tools are given at its beginning.
    let narrower = json!({ "properties": {
        "n": { "enum": [1, null] }, "tools": { "type": "null" },
    } });
    let turn_request = json!({ "allOf": [chat_request.clone(), narrower] });
    let session = content(json_kind, json!(schemas.answer::<SessionAnswer>()));
    let session_request = Some(json!(schemas.request::<SessionRequest>()));
    let rewind_request = Some(json!(schemas.request::<RewindRequest>()));
    let deleted = content(json_kind, json!(schemas.answer::<Deleted>()));
    let octets = "application/octet-stream";
    let bytes = json!({ "type": "string", "format": "binary" });
    let of_session = |operation: Value| with_name("id", operation);
    let reading = [&READING[..], &[404, 409]].concat();
    // These ask for no key.
    let open = |mut operation: Value| {
        operation["security"] = json!([]);
        operation
    };
    let paths = json!({
        "/v1/models": { "get": read("listModels", &READING, list) },
        "/v1/models/{model}": { "get": with_name("model", get_model) },
        "/v1/completions": {
            "post": send("createCompletion", json_kind, completion_request, completion),
        },
        "/v1/chat/completions": {
            "post": send("createChatCompletion", json_kind, chat_request, chat.clone()),
        },
        "/v1/sessions": {
            "post": send("createSession", json_kind, session_request, session.clone()),
        },
        "/v1/sessions/import": {
            "post": send("importSession", octets, Some(bytes.clone()), session.clone()),
        },
        "/v1/sessions/{id}": {
            "get": of_session(read("getSession", &reading, session.clone())),
            "delete": of_session(read("deleteSession", &reading, deleted)),
        },
        "/v1/sessions/{id}/chat/completions": {
            "post": of_session(send("continueSession", json_kind, Some(turn_request), chat)),
        },
        "/v1/sessions/{id}/rewind": {
            "post": of_session(send("rewindSession", json_kind, rewind_request, session.clone())),
        },
        "/v1/sessions/{id}/fork": {
            "post": of_session(send("forkSession", json_kind, None, session.clone())),
        },
        "/v1/sessions/{id}/undo": {
            "post": of_session(send("undoSession", json_kind, None, session)),
        },
        "/v1/sessions/{id}/export": {
            "get": of_session(read("exportSession", &reading, content(octets, bytes))),
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
    let vocab = app.engine.vocab_size();
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
    if !app.engine.template().is_some_and(takes_tools) {
        for request in ["ChatRequest", "SessionRequest"] {
            if let Some(schema) = definitions.get_mut(request) {
                schema["properties"]["tools"] = json!({ "enum": [[], null] });
            }
        }
    }
    if let Some(request) = definitions.get_mut("SessionRequest") {
        request["properties"]["model"] = json!({ "type": "string", "const": app.options.model });
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
                let most = if tokens { app.options.engine.prompt_tokens } else { limits.choices };
                kind["maxItems"] = json!(most);
            }
        }
    }
    for (request, rules) in [
        ("CompletionRequest", json!([unless("stream", json!(true), "stream_options")])),
        (
            "ChatRequest",
            json!([
                unless("stream", json!(true), "stream_options"),
                unless("logprobs", json!(true), "top_logprobs"),
                { "anyOf": [
                    { "properties": { "max_tokens": { "type": "null" } } },
                    { "properties": { "max_completion_tokens": { "type": "null" } } },
                ] },
            ]),
        ),
    ] {
        if let Some(schema) = definitions.get_mut(request) {
            schema["allOf"] = rules;
        }

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

/// A schema of objects in which `field` is `value`, or else `other` is absent or null.
fn unless(field: &str, value: Value, other: &str) -> Value {
    json!({ "anyOf": [
        { "properties": { field: { "const": value } }, "required": [field] },
        { "properties": { other: { "type": "null" } } },
    ] })
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
