//! Requests that ask for nothing special, in the many ways in which clients write them.

#![allow(clippy::unwrap_used)]

mod common;

use common::{Answer, MODEL, Server};
use serde_json::{Value, json};

const CHAT: &str = "/v1/chat/completions";
const COMPLETE: &str = "/v1/completions";

fn with(more: &Value) -> Value {
    let mut body = json!({
        "model": MODEL, "prompt": "Lily", "messages": [{ "role": "user", "content": "Hi" }],
    });
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

/// Sends a request to an endpoint, without the other's text.
fn send(server: &Server, path: &str, more: &Value) -> Answer {
    let mut body = with(more);
    let other = if path == CHAT { "prompt" } else { "messages" };
    body.as_object_mut().unwrap().remove(other);
    server.post(path, &body)
}

/// The text of an answer or of a stream's pieces.
fn text(answer: &Answer) -> String {
    assert_eq!(answer.status, 200, "{answer:?}");
    let choice = |value: &Value| {
        let choice = &value["choices"][0];
        let text = [&choice["text"], &choice["message"]["content"], &choice["delta"]["content"]];
        text.into_iter().find_map(Value::as_str).unwrap_or_default().to_owned()
    };
    if !answer.head.contains("text/event-stream") {
        return choice(&answer.json());
    }
    let events = answer.body.lines().filter_map(|line| line.split_once("data: "));
    events
        .filter_map(|(_, data)| serde_json::from_str(data).ok())
        .map(|v: Value| choice(&v))
        .collect()
}

#[test]
fn parameters_that_ask_for_nothing_are_accepted() {
    let server = Server::start(|options| {
        options.limits.max_tokens = 6;
        options.strict = true;
    });
    let plain = json!({ "temperature": 0, "max_tokens": 6 });
    let both = [
        json!({ "response_format": { "type": "text" } }),
        json!({ "tool_choice": "none" }),
        json!({ "tool_choice": "auto" }),
        json!({ "tools": [], "functions": [], "function_call": "auto" }),
        json!({ "parallel_tool_calls": true }),
        json!({ "parallel_tool_calls": false }),
        json!({ "store": false, "metadata": {}, "user": "a" }),
        json!({ "modalities": ["text"], "audio": null, "prediction": null }),
        json!({ "service_tier": "auto", "safety_identifier": "x", "prompt_cache_key": "y" }),
        json!({ "stream": true, "stream_options": {
            "include_usage": true, "include_obfuscation": false, "continuous_usage_stats": true,
        } }),
        json!({ "stream": false, "stream_options": { "include_usage": false } }),
        json!({ "stream_options": {} }),
        json!({ "best_of": 1, "suffix": "", "n": 1.0, "logit_bias": {}, "stop": [] }),
        json!({ "stop": "", "seed": null, "min_tokens": 0, "ignore_eos": false }),
        json!({ "max_tokens": -1 }),
        json!({ "max_tokens": 1_000_000 }),
        json!({ "max_tokens": 3, "max_completion_tokens": 6 }),
        json!({ "top_k": -1, "min_p": 0, "repeat_penalty": 1, "keep_alive": "5m" }),
        json!({ "chat_template_kwargs": { "enable_thinking": false }, "thinking": null }),
        json!({ "reasoning_effort": "low", "skip_special_tokens": true, "verbosity": "medium" }),
        json!({ "response_format": {}, "guided_choice": [], "guided_regex": "", "structured_outputs": {} }),
        json!({ "response_format": null, "guided_json": null, "web_search_options": {} }),
        json!({ "model": null, "nonsense": null }),
        json!({ "logit_bias": null, "prompt_logprobs": null, "stop_token_ids": [], "typical_p": 1 }),
    ];
    for path in [CHAT, COMPLETE] {
        let expected = send(&server, path, &plain);
        for more in &both {
            let mut more = more.clone();
            let object = more.as_object_mut().unwrap();
            object.insert("temperature".to_owned(), 0.into());
            object.entry("max_tokens").or_insert(6.into());
            let answer = send(&server, path, &more);
            assert_eq!(text(&answer), text(&expected), "{path} {more}: {answer:?}");
            assert!(!answer.head.contains("x-ignored-parameters"), "{more}: {answer:?}");
        }
    }
    let chat = json!({ "logprobs": false, "top_logprobs": 0, "max_tokens": 1_000_000 });
    let capped = send(&server, CHAT, &chat).ok();
    assert_eq!(capped["usage"]["completion_tokens"], 6);
    assert_eq!(capped["choices"][0]["finish_reason"], "length");
    // Every chunk has the usage, the last one all of it.
    let stream = json!({
        "stream": true, "max_tokens": 3,
        "stream_options": { "include_usage": true, "continuous_usage_stats": true },
    });
    let mut stream = with(&stream);
    stream.as_object_mut().unwrap().remove("messages");
    let chunks = server.stream(COMPLETE, &stream).all();
    assert!(chunks.iter().all(|chunk| chunk["usage"]["prompt_tokens"].is_u64()), "{chunks:?}");
}

#[test]
fn what_would_change_the_answer_is_refused_by_name() {
    let server = Server::start(|_| {});
    for (name, value) in [
        ("grammar", json!("root ::= \"a\"")),
        ("functions", json!([{ "name": "f" }])),
        ("modalities", json!(["text", "audio"])),
        ("best_of", json!(3)),
        ("suffix", json!(".")),
        ("min_tokens", json!(5)),
        ("skip_special_tokens", json!(false)),
        ("thinking", json!({ "type": "enabled" })),
        ("tool_choice", json!("required")),
        ("tool_choice", json!({ "type": "function", "function": { "name": "f" } })),
        ("web_search_options", json!({ "search_context_size": "low" })),
        ("stop_token_ids", json!([5])),
        ("allowed_token_ids", json!([5])),
        ("bad_words", json!(["cat"])),
        ("typical_p", json!(0.5)),
    ] {
        for path in [CHAT, COMPLETE] {
            let answer = send(&server, path, &json!({ name: value }));
            answer.is_error(400, Some(name), "not supported by this server");
            assert_eq!(answer.json()["error"]["code"], "unsupported_parameter");
        }
    }
    // The bounds in the published schema are those that are checked.
    send(&server, CHAT, &json!({ "repetition_penalty": 0.05, "max_tokens": 1 })).ok();
    let bound = "not above 0 and at most 10";
    for name in ["repetition_penalty", "repeat_penalty"] {
        send(&server, CHAT, &json!({ name: 0 })).is_error(400, Some(name), bound);
    }
}

#[test]
fn unknown_parameters_are_named() {
    let server = Server::start(|options| options.aliases = vec!["tales".to_owned()]);
    let odd = json!({ "max_tokens": 1, "nonsense": [1], "caf\u{e9},": 0, "model": "gpt-4" });
    for path in [CHAT, COMPLETE] {
        let answer = send(&server, path, &odd);
        assert_eq!(answer.ok()["model"], MODEL);
        let header = answer.head.lines().find_map(|l| l.strip_prefix("x-ignored-parameters: "));
        let mut names: Vec<_> = header.unwrap().split(", ").collect();
        names.sort_unstable();
        assert_eq!(names, ["caf??", "model", "nonsense"]);
    }
    for name in [json!(null), json!(MODEL), json!("tales")] {
        let answer = send(&server, CHAT, &json!({ "max_tokens": 1, "model": name }));
        answer.ok();
        assert!(!answer.head.contains("x-ignored-parameters"), "{answer:?}");
    }
    let models = server.get("/v1/models").ok();
    let ids: Vec<_> = models["data"].as_array().unwrap().iter().map(|m| m["id"].clone()).collect();
    assert_eq!(ids, [MODEL, "tales"]);
    assert_eq!(server.get("/v1/models/tales").ok()["id"], "tales");
    let created = server.post("/v1/sessions", &json!({ "what": 1 }));
    assert!(created.head.contains("x-ignored-parameters: what"), "{created:?}");
}

#[test]
fn messages_as_clients_send_them() {
    let server = Server::start(|options| options.strict = true);
    let user = json!({ "role": "user", "content": "x" });
    for message in [
        json!({ "role": "tool", "tool_call_id": "a", "name": "get_weather", "content": "1" }),
        json!({ "role": "assistant", "content": "x", "annotations": [] }),
        json!({ "role": "assistant", "content": "x", "refusal": null, "audio": null }),
        json!({ "role": "assistant", "content": "x", "reasoning_content": null }),
        json!({ "role": "assistant", "content": "x", "reasoning_content": "t" }),
        json!({ "role": "assistant", "content": null, "function_call": null, "tool_calls": [
            { "id": "a", "type": "function", "function": { "name": "f", "arguments": "{}" } },
        ] }),
        json!({ "role": "assistant", "content": [{ "type": "refusal", "refusal": "No." }] }),
        json!({ "role": "user", "content": "x", "tool_calls": null }),
        json!({ "role": "user", "content": "x", "id": "1", "name": "Ann" }),
        json!({ "role": "user", "content": [
            { "type": "text", "text": "Hi", "cache_control": { "type": "ephemeral" } },
        ] }),
        json!({ "role": "user", "content": [{ "type": "input_text", "text": "Hi" }] }),
        json!({ "role": "assistant", "content": [{ "type": "output_text", "text": "Hi" }] }),
        json!({ "role": "tool", "tool_call_id": "a", "content": null }),
        json!({ "role": "developer", "content": "x" }),
    ] {
        let body = json!({ "max_tokens": 1, "messages": [user.clone(), message, user.clone()] });
        send(&server, CHAT, &body).ok();
    }
    for (message, part) in [
        (json!({ "role": "assistant", "content": "x", "audio": { "id": "1" } }), "audio"),
        (json!({ "role": "user", "content": null }), "content"),
        (json!({ "role": "user", "content": [{ "type": "input_audio" }] }), "text parts"),
    ] {
        let answer = send(&server, CHAT, &json!({ "messages": [message] }));
        answer.is_error(400, Some("messages[0]"), part);
    }
}

/// The template gets its variables, and no tools where none may be called.
#[test]
fn templates_see_variables() {
    let template = "{% if tools %}tools {% endif %}{% if enable_thinking is defined %}\
        {{ enable_thinking }} {% endif %}{{ reasoning_effort or '' }}\
        {% for m in messages %}{{ m.reasoning_content or '' }}{{ m.content }}{% endfor %}";
    let server = Server::with_template(template, |_| {});
    let tokens = |more: &Value| {
        let mut more = more.clone();
        more["max_tokens"] = 1.into();
        send(&server, CHAT, &more).ok()["usage"]["prompt_tokens"].as_u64().unwrap()
    };
    let plain = tokens(&json!({}));
    assert!(tokens(&json!({ "chat_template_kwargs": { "enable_thinking": false } })) > plain);
    assert!(tokens(&json!({ "reasoning_effort": "high" })) > plain);
    let thought = json!([{ "role": "assistant", "content": "Hi", "reasoning_content": "So so" }]);
    assert!(tokens(&json!({ "messages": thought })) > plain);
    let tools = json!([{ "type": "function", "function": { "name": "f" } }]);
    assert!(tokens(&json!({ "tools": tools })) > plain);
    assert_eq!(tokens(&json!({ "tools": tools, "tool_choice": "none" })), plain);
    assert!(tokens(&json!({ "tools": tools, "parallel_tool_calls": false })) > plain);
}

#[test]
fn paths_hosts_and_content_types() {
    let server = Server::start(|_| {});
    let body = with(&json!({ "max_tokens": 1 }));
    for path in [
        "/chat/completions",
        "/v1/chat/completions/",
        "//v1//chat/completions",
        "/v1/v1/completions",
    ] {
        server.post(path, &body).ok();
    }
    server.get("/models/").ok();
    server.get("/health/").ok();
    let host = |name: &str| {
        server.send(format!("GET /v1/models HTTP/1.1\r\nhost: {name}\r\nconnection: close\r\n\r\n"))
    };
    for name in [
        "api.localhost:80",
        "box.local",
        "[::ffff:127.0.0.1]:80",
        "host.docker.internal:8080",
        "LOCALHOST.",
    ] {
        host(name).ok();
    }
    host(&gethostname::gethostname().to_string_lossy()).ok();
    for name in [
        ".local",
        "local",
        "localhost.example",
        "host.docker.internal.example",
        "x.local.y",
        "x.example:80.local",
        "x.example\\.local",
        "x y.localhost",
    ] {
        host(name).is_error(403, None, "localhost only");
    }
    // A mark of the byte order is no part of the text.
    server.send(common::post(COMPLETE, &format!("\u{feff}{body}"))).ok();
    // A program may leave out the content type; a page of another origin must give it, so that
    // browsers ask before they send.
    let plain = common::post(COMPLETE, &body.to_string());
    let json = "content-type: application/json\r\n";
    for kind in
        ["", "content-type: text/plain\r\n", "content-type: application/x-www-form-urlencoded\r\n"]
    {
        server.send(plain.replace(json, kind)).ok();
        for page in
            ["origin: https://a.example\r\n", "origin: null\r\n", "sec-fetch-site: cross-site\r\n"]
        {
            let refused = server.send(plain.replace(json, &format!("{kind}{page}")));
            refused.is_error(415, None, "application/json");
        }
    }
}
