//! Texts of a format: the fields of OpenAI and vLLM.

#![allow(clippy::unwrap_used)]

mod common;

use common::{MODEL, Server};
use serde_json::{Value, json};

const CHAT: &str = "/v1/chat/completions";
const COMPLETE: &str = "/v1/completions";

/// A request to an endpoint with more fields.
fn body(path: &str, more: &Value) -> Value {
    let mut body = json!({ "model": MODEL, "max_tokens": 60, "temperature": 0 });
    match path {
        CHAT => body["messages"] = json!([{ "role": "user", "content": "Lily has a" }]),
        _ => body["prompt"] = "Lily has a".into(),
    }
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

/// The text of a whole answer, and that of a stream, with the reason for their end.
fn texts(server: &Server, path: &str, more: &Value) -> (String, Value) {
    let mut body = body(path, more);
    let answer = server.post(path, &body).ok();
    let choice = &answer["choices"][0];
    let text = choice["text"].as_str().or(choice["message"]["content"].as_str()).unwrap();
    body["stream"] = true.into();
    let chunks = server.stream(path, &body).all();
    let parts = chunks.iter().map(|chunk| &chunk["choices"][0]);
    let parts =
        parts.filter_map(|part| part["text"].as_str().or(part["delta"]["content"].as_str()));
    assert_eq!(parts.collect::<String>(), text);
    (text.to_owned(), choice["finish_reason"].clone())
}

#[test]
fn texts_have_the_format_that_is_asked_for() {
    let server = Server::start(|options| options.strict = true);
    let schema = json!({
        "type": "object", "required": ["pet", "legs"], "additionalProperties": false,
        "properties": { "pet": { "enum": ["cat", "dog"] }, "legs": { "type": "integer", "minimum": 2, "maximum": 4 } },
    });
    let named = json!({ "name": "pet", "strict": true, "schema": schema });
    let pets = [
        json!({ "response_format": { "type": "json_schema", "json_schema": named } }),
        json!({ "response_format": { "type": "json_object", "schema": schema } }),
        json!({ "guided_json": schema }),
        json!({ "guided_json": schema.to_string() }),
        json!({ "structured_outputs": { "json": schema } }),
    ];
    let words = [
        json!({ "guided_choice": ["cat", "dog"] }),
        json!({ "guided_regex": "cat|dog" }),
        json!({ "guided_grammar": "start: \"cat\" | \"dog\"" }),
        json!({ "structured_outputs": { "choice": ["cat", "dog"] } }),
        json!({ "structured_outputs": { "regex": "cat|dog" } }),
        json!({ "structured_outputs": { "grammar": "start: \"cat\" | \"dog\"" } }),
    ];
    for path in [CHAT, COMPLETE] {
        for more in &pets {
            let (text, finish) = texts(&server, path, more);
            let value: Value = serde_json::from_str(&text).unwrap();
            assert!(["cat", "dog"].map(Value::from).contains(&value["pet"]), "{more}: {text}");
            assert!((2..=4).contains(&value["legs"].as_i64().unwrap()), "{more}: {text}");
            assert_eq!(finish, "stop", "{more}");
        }
        for more in &words {
            let (text, finish) = texts(&server, path, more);
            assert!(["cat", "dog"].contains(&text.as_str()), "{more}: {text}");
            assert_eq!(finish, "stop", "{more}");
        }
        for more in [
            json!({ "response_format": { "type": "json_object" } }),
            json!({ "structured_outputs": { "json_object": true } }),
        ] {
            let (text, _) = texts(&server, path, &more);
            assert!(text.starts_with('{'), "{more}: {text}");
        }
    }
}

#[test]
fn formats_that_cannot_be_honored_are_named() {
    let server = Server::start(|_| {});
    let schema = |schema: Value| json!({ "type": "json_schema", "json_schema": { "name": "a", "schema": schema } });
    for (more, param, part) in [
        (
            json!({ "response_format": schema(json!({ "items": { "type": "strin" } })) }),
            "response_format",
            "JSON schema: Invalid type: strin (at /items)",
        ),
        (
            json!({ "response_format": { "type": "xml" } }),
            "response_format",
            "unknown variant `xml`",
        ),
        (json!({ "response_format": { "type": "json_schema" } }), "response_format", "json_schema"),
        (json!({ "response_format": { "type": 1 } }), "response_format", "type: expected a string"),
        (json!({ "guided_json": "{" }), "guided_json", "not JSON"),
        (json!({ "guided_json": 7 }), "guided_json", "expected a JSON schema"),
        (json!({ "guided_regex": "(" }), "guided_regex", "unclosed group"),
        (json!({ "guided_grammar": "x" }), "guided_grammar", "grammar"),
        (json!({ "guided_choice": [""] }), "guided_choice", "0 characters"),
        (json!({ "structured_outputs": { "regex": "(" } }), "structured_outputs", "unclosed group"),
        (
            json!({ "guided_regex": "a", "guided_choice": ["a"] }),
            "guided_choice",
            "not beside guided_regex",
        ),
        (
            json!({ "guided_regex": "a", "response_format": { "type": "json_object" } }),
            "guided_regex",
            "not beside response_format",
        ),
    ] {
        for path in [CHAT, COMPLETE] {
            server.post(path, &body(path, &more)).is_error(400, Some(param), part);
        }
    }
}
