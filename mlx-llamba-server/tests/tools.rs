//! Tools: how they are asked for, and their calls in answers.

#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use common::{MODEL, Server};
use serde_json::{Value, json};

const CHAT: &str = "/v1/chat/completions";

/// A template that asks for calls between tags, as many do.
const TEMPLATE: &str = "{% for t in tools or [] %}{{ t | tojson }}\n{% endfor %}{% for m in messages %}\
    {{ m.content }}{% for c in m.tool_calls or [] %}<tool_call>{{ c.function | tojson }}</tool_call>{% endfor %}\
    \n{% endfor %}";

fn server() -> Server {
    Server::with_template(TEMPLATE, |options| options.strict = true)
}

fn body(more: &Value) -> Value {
    let color = json!({ "type": "object", "required": ["color"], "additionalProperties": false,
        "properties": { "color": { "enum": ["red", "blue"] } } });
    let mut body = json!({
        "model": MODEL, "max_tokens": 200, "temperature": 1, "seed": 3,
        "messages": [{ "role": "user", "content": "Paint it" }],
        "tools": [
            { "type": "function", "function": { "name": "paint", "description": "Paints", "parameters": color } },
            { "type": "function", "function": { "name": "wait" } },
        ],
    });
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

/// The message of a whole answer, and the reason for its end; a stream says the same.
fn message(server: &Server, more: &Value) -> (Value, String) {
    let mut body = body(more);
    let answer = server.post(CHAT, &body).ok();
    let choice = &answer["choices"][0];
    body["stream"] = true.into();
    let chunks = server.stream(CHAT, &body).all();
    let deltas = || chunks.iter().map(|chunk| &chunk["choices"][0]["delta"]);
    let text: String = deltas().filter_map(|delta| delta["content"].as_str()).collect();
    assert_eq!(text, choice["message"]["content"].as_str().unwrap_or_default());
    let parts: Vec<&Value> =
        deltas().filter_map(|delta| delta["tool_calls"].as_array()).flatten().collect();
    let calls = choice["message"]["tool_calls"].as_array().cloned().unwrap_or_default();
    assert_eq!(parts.len(), calls.len());
    for (i, (part, call)) in parts.iter().zip(&calls).enumerate() {
        assert_eq!((&part["index"], &part["function"]), (&json!(i), &call["function"]));
        for call in [part, call] {
            assert_eq!(call["type"], "function");
            let id = call["id"].as_str().unwrap();
            assert!(id.len() == 9 && id.bytes().all(|b| b.is_ascii_alphanumeric()), "{id}");
        }
        assert!(call.get("index").is_none());
    }
    let finish = choice["finish_reason"].as_str().unwrap();
    assert_eq!(chunks.last().unwrap()["choices"][0]["finish_reason"], finish);
    (choice["message"].clone(), finish.to_owned())
}

#[test]
fn a_tool_that_must_be_called_is_called() {
    let server = server();
    let named = json!({ "type": "function", "function": { "name": "paint" } });
    for more in [
        json!({ "tool_choice": "required", "parallel_tool_calls": false }),
        json!({ "tool_choice": "any", "parallel_tool_calls": false }),
        json!({ "tool_choice": named }),
    ] {
        let (message, finish) = message(&server, &more);
        assert_eq!((&message["content"], finish.as_str()), (&Value::Null, "tool_calls"), "{more}");
        let [call] = &message["tool_calls"].as_array().unwrap()[..] else { panic!("{message}") };
        let arguments = call["function"]["arguments"].as_str().unwrap();
        let arguments: Value = serde_json::from_str(arguments).unwrap();
        match call["function"]["name"].as_str().unwrap() {
            "paint" => assert!(arguments["color"] == "red" || arguments["color"] == "blue"),
            name => assert!(name == "wait" && more.get("tool_choice") != Some(&named), "{more}"),
        }
    }
}

#[test]
fn calls_are_told_from_text() {
    let server = server();
    let says = |text: &str| json!({ "guided_choice": [text] });
    let one = "<tool_call>\n{\"name\": \"wait\", \"arguments\": {}}\n</tool_call>";
    let (found, finish) = message(&server, &says(&format!("I wait. {one}\n{one}")));
    assert_eq!((found["content"].as_str(), finish.as_str()), (Some("I wait."), "tool_calls"));
    assert_eq!(found["tool_calls"].as_array().unwrap().len(), 2);
    assert_eq!(found["tool_calls"][0]["function"], json!({ "name": "wait", "arguments": "{}" }));
    let mut single = says(&format!("{one}\n{one} and"));
    single["parallel_tool_calls"] = false.into();
    let (found, _) = message(&server, &single);
    assert_eq!(found["tool_calls"].as_array().unwrap().len(), 1);
    // Without tools, or with none to call, the same text is text.
    for more in [json!({ "tools": [] }), json!({ "tool_choice": "none" })] {
        let mut more = more.clone();
        more["guided_choice"] = json!([one]);
        let (found, finish) = message(&server, &more);
        assert_eq!((found["content"].as_str(), finish.as_str()), (Some(one), "stop"));
        assert!(found.get("tool_calls").is_none());
    }
    // Cut short, it is shown as it is.
    let mut cut = says(one);
    cut["max_tokens"] = 8.into();
    let (found, finish) = message(&server, &cut);
    assert!(one.starts_with(found["content"].as_str().unwrap()), "{found}");
    assert_eq!(finish, "length");
    // A format for the text leaves the choice to the model.
    let format = json!({ "type": "json_schema", "json_schema": { "schema": { "const": 7 } } });
    let (found, finish) = message(&server, &json!({ "response_format": format }));
    assert!(found["content"] == "7" || finish == "tool_calls", "{found}");
}

#[test]
fn impossible_choices_are_named() {
    let server = server();
    for (more, param, part) in [
        (json!({ "tools": [], "tool_choice": "required" }), "tool_choice", "there are no tools"),
        (
            json!({ "tool_choice": { "type": "function", "function": { "name": "x" } } }),
            "tool_choice",
            "no tool is called \"x\"",
        ),
        (
            json!({ "tool_choice": "sometimes" }),
            "tool_choice",
            "none, auto, required or a function",
        ),
        (json!({ "tools": [{ "type": "function", "function": {} }] }), "tools", "needs a name"),
        (
            json!({ "tools": [{ "type": "function", "function": { "name": "a",
            "parameters": { "properties": { "b": { "type": "strin" } } } } }], "tool_choice": "required" }),
            "tools",
            "Invalid type: strin",
        ),
    ] {
        server.post(CHAT, &body(&more)).is_error(400, Some(param), part);
    }
}

/// Arguments come back to the template as an object, which it writes as JSON once.
#[test]
fn arguments_are_objects_for_the_template() {
    let server = server();
    let call = |arguments: Value| {
        json!({ "messages": [
            { "role": "user", "content": "Paint it" },
            { "role": "assistant", "content": null, "tool_calls": [{ "id": "123456789", "type": "function",
              "function": { "name": "paint", "arguments": arguments } }] },
            { "role": "tool", "tool_call_id": "123456789", "content": "done" },
        ], "tool_choice": "none", "max_tokens": 1 })
    };
    let tokens = |arguments: Value| {
        let answer = server.post(CHAT, &body(&call(arguments))).ok();
        answer["usage"]["prompt_tokens"].as_u64().unwrap()
    };
    let object = tokens(json!({ "color": "red", "n": 1.5 }));
    assert_eq!(tokens(json!("{\"color\": \"red\", \"n\": 1.5}")), object);
    assert_eq!(tokens(json!("")), tokens(json!({})));
    // Anything but an object stays as it is.
    assert!(tokens(json!("[1")) > 0);
}

/// The tools of a session are given once; the calls in its replies are told from text, and stay.
#[test]
fn a_session_keeps_tools_and_calls() {
    let server = server();
    let tools = body(&json!({}))["tools"].clone();
    let id = server.post("/v1/sessions", &json!({ "tools": tools })).ok()["id"].clone();
    let session = format!("/v1/sessions/{}", id.as_str().unwrap());
    let path = format!("{session}/chat/completions");
    let ask = |more: Value| {
        let mut body = body(&more);
        body.as_object_mut().unwrap().remove("tools");
        server.post(&path, &body).ok()["choices"][0].clone()
    };
    let choice = ask(json!({ "tool_choice": "required", "parallel_tool_calls": false }));
    assert_eq!(
        (&choice["finish_reason"], &choice["message"]["content"]),
        (&json!("tool_calls"), &Value::Null)
    );
    let call = choice["message"]["tool_calls"][0]["function"].clone();
    let result = json!([{ "role": "tool", "tool_call_id": "123456789", "content": "done" }]);
    let choice = ask(json!({ "messages": result, "guided_choice": ["It is done."] }));
    assert_eq!(choice["message"]["content"], "It is done.");
    let messages = server.get(&session).ok()["messages"].clone();
    assert_eq!(messages[1], json!({ "role": "assistant", "content": "", "tool_calls": [call] }));
    assert_eq!(messages[2], json!({ "role": "tool", "content": "done" }));
    assert_eq!(messages[3]["content"], "It is done.");
    // Without tools, there is nothing to call.
    let id = server.post("/v1/sessions", &json!({})).ok()["id"].clone();
    let path = format!("/v1/sessions/{}/chat/completions", id.as_str().unwrap());
    let mut must = body(&json!({ "tool_choice": "required" }));
    must.as_object_mut().unwrap().remove("tools");
    server.post(&path, &must).is_error(400, Some("tool_choice"), "there are no tools");
}
