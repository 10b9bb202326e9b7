//! The endpoints of other clients: Anthropic's messages, OpenAI's responses, vLLM's tokens.

#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::io::{BufRead, BufReader};

use common::{MODEL, Server};
use serde_json::{Value, json};

const CHAT: &str = "/v1/chat/completions";
const MESSAGES: &str = "/v1/messages";
const RESPONSES: &str = "/v1/responses";

const TEMPLATE: &str = "{% for t in tools or [] %}{{ t | tojson }}\n{% endfor %}{% for m in messages %}\
    {{ m.role }}: {{ m.content }}{% for c in m.tool_calls or [] %}<tool_call>{{ c.function | tojson }}</tool_call>{% endfor %}\
    {{ '\\n' }}{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}";

fn server() -> Server {
    Server::with_template(TEMPLATE, |options| options.strict = true)
}

fn with(mut body: Value, more: &Value) -> Value {
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

/// The events of a stream; each is named by its type, and nothing follows the last.
fn events(server: &Server, path: &str, body: &Value) -> Vec<Value> {
    let body = with(body.clone(), &json!({ "stream": true }));
    let mut stream = server.connect();
    std::io::Write::write_all(&mut stream, common::post(path, &body.to_string()).as_bytes())
        .unwrap();
    let lines: Vec<String> = BufReader::new(stream).lines().map(Result::unwrap).collect();
    let name = |line: &String| line.strip_prefix("event: ").map(str::to_owned);
    let names: Vec<String> = lines.iter().filter_map(name).collect();
    let data = lines.iter().filter_map(|line| line.strip_prefix("data: "));
    let events: Vec<Value> = data.map(|text| serde_json::from_str(text).unwrap()).collect();
    assert_eq!(names, events.iter().map(|e| e["type"].as_str().unwrap()).collect::<Vec<_>>());
    events
}

fn paint() -> Value {
    json!({ "type": "object", "required": ["color"], "additionalProperties": false,
        "properties": { "color": { "enum": ["red", "blue"] } } })
}

/// The reply of chat completions to the messages that the other endpoints get.
fn chat(server: &Server) -> Value {
    let ask = json!({ "model": MODEL, "temperature": 0, "max_tokens": 12, "messages": [
        { "role": "system", "content": "Be brief." }, { "role": "user", "content": "Lily saw" }] });
    server.post(CHAT, &ask).ok()
}

#[test]
fn messages_are_those_of_chat() {
    let server = server();
    let chat = chat(&server);
    let ask = json!({ "model": MODEL, "temperature": 0, "max_tokens": 12, "system": "Be brief.",
        "messages": [{ "role": "user", "content": [{ "type": "text", "text": "Lily saw" }] }] });
    let found = server.post(MESSAGES, &ask).ok();
    let text = found["content"][0]["text"].as_str().unwrap();
    assert_eq!(text, chat["choices"][0]["message"]["content"]);
    assert_eq!(
        (&found["type"], &found["role"], &found["stop_reason"]),
        (&json!("message"), &json!("assistant"), &json!("max_tokens"))
    );
    let read = |usage: &Value| {
        usage["input_tokens"].as_u64().unwrap() + usage["cache_read_input_tokens"].as_u64().unwrap()
    };
    assert_eq!(read(&found["usage"]), chat["usage"]["prompt_tokens"].as_u64().unwrap());
    assert_eq!(found["usage"]["output_tokens"], 12);
    let events = events(&server, MESSAGES, &ask);
    let kinds: Vec<&str> = events.iter().map(|event| event["type"].as_str().unwrap()).collect();
    assert_eq!(kinds[..2], ["message_start", "content_block_start"]);
    assert_eq!(kinds[kinds.len() - 3..], ["content_block_stop", "message_delta", "message_stop"]);
    let parts = events.iter().filter_map(|event| event["delta"]["text"].as_str());
    assert_eq!(parts.collect::<String>(), text);
    let end = &events[events.len() - 2];
    assert_eq!(
        (&end["delta"]["stop_reason"], &end["usage"]["output_tokens"]),
        (&json!("max_tokens"), &json!(12))
    );

    let stopped = with(ask.clone(), &json!({ "stop_sequences": [&text[3..5]] }));
    let stopped = server.post(MESSAGES, &stopped).ok();
    assert_eq!(stopped["stop_reason"], "stop_sequence");
    assert_eq!(stopped["stop_sequence"].as_str().unwrap(), &text[3..5]);
    // Clients of Anthropic have an address and a header of their own.
    server.post("/messages", &ask).ok();
    server.post(MESSAGES, &json!({ "messages": [], "max_tokens": 1 })).is_error(
        400,
        Some("messages"),
        "at least one message",
    );
    server.post(MESSAGES, &json!({ "messages": [{ "role": "user", "content": "a" }] })).is_error(
        400,
        None,
        "max_tokens",
    );
    let image = json!([{ "type": "image", "source": {} }]);
    let image = json!({ "messages": [{ "role": "user", "content": image }], "max_tokens": 1 });
    assert_eq!(server.post(MESSAGES, &image).status, 400);
}

#[test]
fn messages_use_tools() {
    let server = server();
    let tools = json!([{ "name": "paint", "input_schema": paint() }, { "name": "wait", "input_schema": {} }]);
    let ask = json!({ "model": MODEL, "temperature": 1, "seed_": null, "max_tokens": 100, "tools": tools,
        "tool_choice": { "type": "tool", "name": "paint" },
        "messages": [{ "role": "user", "content": "Paint it" }] });
    let mut ask = ask;
    ask.as_object_mut().unwrap().remove("seed_");
    let found = server.post(MESSAGES, &ask).ok();
    let [call] = &found["content"].as_array().unwrap()[..] else { panic!("{found}") };
    assert_eq!((&call["type"], &call["name"]), (&json!("tool_use"), &json!("paint")));
    assert!(call["input"]["color"].is_string(), "{call}");
    assert_eq!(found["stop_reason"], "tool_use");
    let events = events(&server, MESSAGES, &ask);
    let block = &events[1]["content_block"];
    assert_eq!(
        (&block["type"], &block["name"], &block["input"]),
        (&json!("tool_use"), &json!("paint"), &json!({}))
    );
    let input = events[2]["delta"]["partial_json"].as_str().unwrap();
    assert!(serde_json::from_str::<Value>(input).unwrap()["color"].is_string());
    // The call and its result go back, and the template sees what chat's would.
    let tokens = |path: &str, body: &Value| {
        let usage = server.post(path, body).ok()["usage"].clone();
        usage["prompt_tokens"].as_u64().unwrap_or_else(|| {
            usage["input_tokens"].as_u64().unwrap()
                + usage["cache_read_input_tokens"].as_u64().unwrap()
        })
    };
    let back = json!({ "model": MODEL, "max_tokens": 1, "messages": [
        { "role": "user", "content": "Paint it" },
        { "role": "assistant", "content": [{ "type": "text", "text": "So" }, call] },
        { "role": "user", "content": [{ "type": "tool_result", "tool_use_id": call["id"], "content": "done" }] },
    ] });
    let chat = json!({ "model": MODEL, "max_tokens": 1, "messages": [
        { "role": "user", "content": "Paint it" },
        { "role": "assistant", "content": "So", "tool_calls": [{ "id": call["id"], "type": "function",
          "function": { "name": "paint", "arguments": call["input"].to_string() } }] },
        { "role": "tool", "tool_call_id": call["id"], "content": "done" },
    ] });
    assert_eq!(tokens(MESSAGES, &back), tokens(CHAT, &chat));
}

#[test]
fn a_message_is_continued() {
    let server = server();
    let messages = json!([{ "role": "user", "content": "Hi" }, { "role": "assistant", "content": "Once upon" }]);
    let prompt = "user: Hi\nassistant: Once upon";
    let plain = json!({ "model": MODEL, "temperature": 0, "max_tokens": 8 });
    let expected = with(plain.clone(), &json!({ "prompt": prompt }));
    let expected = server.post("/v1/completions", &expected).ok()["choices"][0]["text"].clone();
    let continued = with(
        plain.clone(),
        &json!({
        "messages": messages, "continue_final_message": true, "add_generation_prompt": false }),
    );
    let found = server.post(CHAT, &continued).ok();
    // The template's text has no token at its beginning.
    let tokens =
        server.post("/v1/tokenize", &json!({ "prompt": prompt, "add_special_tokens": false })).ok();
    assert_eq!(found["usage"]["prompt_tokens"], tokens["count"]);
    let alone = with(plain.clone(), &json!({ "prompt": tokens["tokens"] }));
    let alone = server.post("/v1/completions", &alone).ok()["choices"][0]["text"].clone();
    assert_eq!(found["choices"][0]["message"]["content"], alone);
    assert!(expected.is_string());
    let anthropic = with(plain.clone(), &json!({ "messages": messages }));
    assert_eq!(server.post(MESSAGES, &anthropic).ok()["content"][0]["text"], alone);
    // Without content there is nothing to cut off.
    let empty =
        json!([{ "role": "user", "content": "Hi" }, { "role": "assistant", "content": "" }]);
    server.post(MESSAGES, &with(plain.clone(), &json!({ "messages": empty }))).ok();
    let both = with(continued, &json!({ "add_generation_prompt": true }));
    server.post(CHAT, &both).is_error(400, Some("continue_final_message"), "not with");
    let neither = with(plain, &json!({ "messages": messages, "add_generation_prompt": false }));
    server.post(CHAT, &neither).is_error(400, Some("add_generation_prompt"), "only with");
}

#[test]
fn responses_are_those_of_chat() {
    let server = server();
    let chat = chat(&server);
    let text = chat["choices"][0]["message"]["content"].as_str().unwrap();
    let plain = json!({ "model": MODEL, "temperature": 0, "max_output_tokens": 12, "instructions": "Be brief." });
    for input in [
        json!("Lily saw"),
        json!([{ "role": "user", "content": "Lily saw" }]),
        json!([{ "type": "message", "role": "user", "content": [{ "type": "input_text", "text": "Lily saw" }] }]),
    ] {
        let ask = with(plain.clone(), &json!({ "input": input }));
        let found = server.post(RESPONSES, &ask).ok();
        assert_eq!(found["output"][0]["content"][0]["text"], text);
        assert_eq!(
            (&found["status"], &found["incomplete_details"]["reason"]),
            (&json!("incomplete"), &json!("max_output_tokens"))
        );
        assert_eq!(found["usage"]["total_tokens"], chat["usage"]["total_tokens"]);
        let events = events(&server, RESPONSES, &ask);
        let numbers: Vec<u64> =
            events.iter().map(|e| e["sequence_number"].as_u64().unwrap()).collect();
        assert_eq!(numbers, (0..events.len() as u64).collect::<Vec<_>>());
        let parts = events.iter().filter_map(|event| event["delta"].as_str());
        assert_eq!(parts.collect::<String>(), text);
        let end = events.last().unwrap();
        assert_eq!(
            (&end["type"], &end["response"]["output"][0]["content"]),
            (&json!("response.incomplete"), &found["output"][0]["content"])
        );
    }
    let schema = json!({ "type": "json_schema", "name": "a", "schema": paint() });
    let ask = with(
        plain,
        &json!({ "input": "A color", "max_output_tokens": 60, "text": { "format": schema } }),
    );
    let found = server.post(RESPONSES, &ask).ok();
    let value: Value =
        serde_json::from_str(found["output"][0]["content"][0]["text"].as_str().unwrap()).unwrap();
    assert!(value["color"].is_string() && found["status"] == "completed", "{found}");
    server.post(RESPONSES, &json!({ "input": [] })).is_error(400, Some("input"), "at least one");
    let number = json!([{ "role": "user", "content": [{ "type": 0, "text": "a" }] }]);
    server.post(RESPONSES, &json!({ "input": number })).is_error(
        400,
        Some("input"),
        "type: expected",
    );
    server.post(MESSAGES, &json!({ "messages": number, "max_tokens": 1 })).is_error(
        400,
        Some("messages"),
        "type: expected",
    );
}

/// A response continues an earlier one, without its instructions.
#[test]
fn responses_continue_others() {
    let server = server();
    let base = json!({ "model": MODEL, "temperature": 0, "max_output_tokens": 6 });
    let first = with(base.clone(), &json!({ "input": "Lily saw", "instructions": "Be brief." }));
    let streamed = events(&server, RESPONSES, &first).pop().unwrap()["response"].clone();
    let first = server.post(RESPONSES, &first).ok();
    let text =
        |found: &Value| found["output"][0]["content"][0]["text"].as_str().unwrap().to_owned();
    let chat = json!({ "model": MODEL, "temperature": 0, "max_tokens": 6, "messages": [
        { "role": "system", "content": "Now loud." }, { "role": "user", "content": "Lily saw" },
        { "role": "assistant", "content": text(&first) }, { "role": "user", "content": "Then" }] });
    let chat = server.post(CHAT, &chat).ok();
    for previous in [&first["id"], &streamed["id"]] {
        let next = json!({ "previous_response_id": previous, "input": "Then", "instructions": "Now loud." });
        let next = server.post(RESPONSES, &with(base.clone(), &next)).ok();
        assert_eq!(chat["choices"][0]["message"]["content"], text(&next));
        assert_eq!(next["usage"]["input_tokens"], chat["usage"]["prompt_tokens"]);
        // Any of them can be continued, more than once.
        let third = json!({ "previous_response_id": next["id"], "input": "And", "store": false });
        let third = server.post(RESPONSES, &with(base.clone(), &third)).ok();
        let more = third["usage"]["input_tokens"].as_u64() > next["usage"]["input_tokens"].as_u64();
        assert!(more, "{third}");
        let gone = json!({ "previous_response_id": third["id"], "input": "And" });
        let gone = server.post(RESPONSES, &with(base.clone(), &gone));
        gone.is_error(400, Some("previous_response_id"), "no response of this id is kept");
    }
}

/// The count is that of the request that it announces.
#[test]
fn tokens_of_messages_are_counted() {
    let server = server();
    let tool = json!([{ "name": "paint", "input_schema": paint() }]);
    for more in [
        json!({ "messages": [{ "role": "user", "content": "Hi" }] }),
        json!({ "messages": [{ "role": "user", "content": "Hi" }], "system": "Be brief.", "tools": tool }),
        json!({ "messages": [{ "role": "user", "content": "Hi" }, { "role": "assistant", "content": "Once" }] }),
    ] {
        let counted = server.post("/v1/messages/count_tokens", &more).ok();
        let read = with(more, &json!({ "max_tokens": 1 }));
        let read = server.post(MESSAGES, &read).ok();
        assert_eq!(counted, json!({ "input_tokens": read["usage"]["input_tokens"] }));
    }
    server.post("/v1/messages/count_tokens", &json!({ "messages": [] })).is_error(
        400,
        Some("messages"),
        "messages",
    );
}

#[test]
fn responses_call_functions() {
    let server = server();
    let ask = json!({ "model": MODEL, "max_output_tokens": 100, "input": "Paint it",
        "tools": [{ "type": "function", "name": "paint", "parameters": paint() }],
        "tool_choice": { "type": "function", "name": "paint" } });
    let found = server.post(RESPONSES, &ask).ok();
    let [call] = &found["output"].as_array().unwrap()[..] else { panic!("{found}") };
    assert_eq!((&call["type"], &call["name"]), (&json!("function_call"), &json!("paint")));
    let arguments: Value = serde_json::from_str(call["arguments"].as_str().unwrap()).unwrap();
    assert!(arguments["color"].is_string(), "{call}");
    let kinds: Vec<String> = events(&server, RESPONSES, &ask)
        .iter()
        .map(|e| e["type"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(
        kinds,
        [
            "response.created",
            "response.in_progress",
            "response.output_item.added",
            "response.function_call_arguments.delta",
            "response.function_call_arguments.done",
            "response.output_item.done",
            "response.completed"
        ]
    );
    let back = json!({ "model": MODEL, "max_output_tokens": 1, "input": [
        { "role": "user", "content": "Paint it" }, { "type": "reasoning" }, call,
        { "type": "function_call_output", "call_id": call["call_id"], "output": "done" },
    ] });
    let chat = json!({ "model": MODEL, "max_tokens": 1, "messages": [
        { "role": "user", "content": "Paint it" },
        { "role": "assistant", "content": "", "tool_calls": [{ "id": call["call_id"], "type": "function",
          "function": { "name": "paint", "arguments": call["arguments"] } }] },
        { "role": "tool", "tool_call_id": call["call_id"], "content": "done" },
    ] });
    let found = server.post(RESPONSES, &back).ok();
    assert_eq!(
        found["usage"]["input_tokens"],
        server.post(CHAT, &chat).ok()["usage"]["prompt_tokens"]
    );
}

#[test]
fn texts_and_tokens() {
    let server = server();
    let text = "Once upon a time";
    let found =
        server.post("/tokenize", &json!({ "prompt": text, "return_token_strs": true })).ok();
    assert_eq!(found["tokens"], json!([1, 866, 941, 259, 700]));
    assert_eq!((&found["count"], &found["token_strs"][1]), (&json!(5), &json!("Once")));
    let back = server.post("/v1/detokenize", &json!({ "tokens": [866, 941, 259, 700] })).ok();
    assert_eq!(back["prompt"], text);
    let messages = json!([{ "role": "user", "content": text }]);
    let chat = server.post("/v1/tokenize", &json!({ "messages": messages })).ok();
    let read = server.post(CHAT, &json!({ "messages": messages, "max_tokens": 1 })).ok();
    assert_eq!(chat["count"], read["usage"]["prompt_tokens"]);
    server.post("/v1/tokenize", &json!({})).is_error(400, Some("prompt"), "either");
    server.post("/v1/detokenize", &json!({ "tokens": "a" })).is_error(
        400,
        Some("tokens"),
        "expected",
    );
    let model = &server.get("/v1/models").ok()["data"][0];
    assert_eq!(model["max_model_len"], found["max_model_len"]);
    assert_eq!(
        model["capabilities"],
        json!(["completion", "chat", "tools", "structured_outputs", "sessions", "embeddings"])
    );
}

#[test]
fn embeddings_are_the_librarys() {
    let server = server();
    let llamba = mlx_llamba::Llamba::embedded().compute(mlx_llamba::Compute::Cpu).load().unwrap();
    let expected = llamba.embed(&[1, 866, 941, 259, 700]).unwrap();
    let found =
        server.post("/v1/embeddings", &json!({ "input": ["Lily", "Once upon a time"] })).ok();
    let vector: Vec<f32> = serde_json::from_value(found["data"][1]["embedding"].clone()).unwrap();
    assert_eq!((&vector, found["data"].as_array().unwrap().len()), (&expected, 2));
    let ask = json!({ "input": [1, 866, 941, 259, 700], "encoding_format": "base64" });
    let found = server.post("/embeddings", &ask).ok();
    assert_eq!(
        found["data"][0]["embedding"].as_str().unwrap().len(),
        (4 * expected.len()).div_ceil(3) * 4
    );
    assert_eq!(found["usage"], json!({ "prompt_tokens": 5, "total_tokens": 5 }));
    server.post("/v1/embeddings", &json!({ "input": [] })).is_error(400, Some("input"), "0 inputs");
    server.post("/v1/embeddings", &json!({ "input": [99999] })).is_error(
        400,
        Some("input"),
        "99999",
    );
    server.post("/v1/embeddings", &json!({ "input": "a", "dimensions": 3 })).is_error(
        400,
        Some("dimensions"),
        "not supported",
    );
}

/// The page needs no key, and nothing but the server's own files.
#[test]
fn a_page_comes_with_the_server() {
    let server = Server::start(|options| options.api_keys = vec!["secret".to_owned()]);
    let get = |path: &str| {
        server.send(format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"))
    };
    let page = get("/");
    assert_eq!(page.status, 200);
    assert!(
        page.head.contains("text/html") && page.head.contains("frame-ancestors 'none'"),
        "{page:?}"
    );
    for (before, after) in [("href=\"", ".css\""), ("src=\"", ".js\"")] {
        let name =
            page.body.split(before).filter_map(|rest| rest.split_once(after)).next().unwrap().0;
        let name = name.rsplit('"').next().unwrap();
        let file = get(&format!("/{name}{}", after.trim_end_matches('"')));
        assert_eq!(file.status, 200, "{name}");
    }
    // Every module that is imported is there.
    for module in ["main", "view", "branch", "markdown", "settings"] {
        let script = get(&format!("/{module}.js"));
        assert!(script.head.contains("text/javascript"), "{module}");
        for import in script.body.lines().filter(|line| line.starts_with("import ")) {
            let path = import.split('"').nth(1).unwrap().trim_start_matches('.');
            assert_eq!(get(path).status, 200, "{module}: {import}");
        }
    }
    assert_eq!(get("/v1/models").status, 401);
}
