//! Completions and chat completions over HTTP give what the library gives.

#![allow(clippy::unwrap_used)]

mod common;

use common::{MODEL, Server};
use mlx_llamba::{Compute, Generation, Llamba, Sampling};
use serde_json::{Value, json};

const PROMPT: &str = "Once upon a time, there was a little";

fn llamba() -> Llamba {
    Llamba::embedded().compute(Compute::Cpu).load().unwrap()
}

/// A completion without the sampling that the built-in model has by default.
fn complete(server: &Server, more: &Value) -> Value {
    let mut plain = json!({ "temperature": 1, "repetition_penalty": 1 });
    plain.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    by_default(server, &plain)
}

fn by_default(server: &Server, more: &Value) -> Value {
    let mut body = json!({ "model": MODEL, "prompt": PROMPT, "max_tokens": 20 });
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    server.post("/v1/completions", &body).ok()
}

#[test]
fn completions_are_the_librarys() {
    let (server, llamba) = (Server::start(|_| {}), llamba());
    let greedy = llamba.generate(PROMPT, &Generation::greedy().max_tokens(20)).unwrap();
    let found = complete(&server, &json!({ "temperature": 0 }));
    assert_eq!(found["choices"][0]["text"], greedy.text);
    assert_eq!(found["choices"][0]["finish_reason"], "length");
    assert_eq!(found["usage"]["completion_tokens"], 20);
    assert_eq!(found["object"], "text_completion");

    // Equal seeds give equal texts, also in numbers.
    let sampled = |seed: u64| {
        let sampling = Sampling::plain().seed(seed).frequency_penalty(0.5);
        let options = Generation::default().sampling(sampling).max_tokens(20);
        llamba.generate(PROMPT, &options).unwrap().text
    };
    let found = complete(&server, &json!({ "seed": 3, "frequency_penalty": 0.5, "n": 3 }));
    for i in 0..3 {
        assert_eq!(found["choices"][i]["text"], sampled(3 + i as u64), "choice {i}");
        assert_eq!(found["choices"][i]["index"], i);
    }

    // Stop strings end a text before them.
    let stop = llamba.generate(PROMPT, &Generation::greedy().max_tokens(20).stop(" a")).unwrap();
    let found = complete(&server, &json!({ "temperature": 0, "stop": [" a"] }));
    assert_eq!(found["choices"][0]["text"], stop.text);
    assert_eq!(found["choices"][0]["finish_reason"], "stop");

    // Token ids are a prompt too, and lists of prompts give a choice each.
    let ids = llamba.tokenizer().unwrap().encode(PROMPT, true).unwrap();
    for prompt in [json!(ids), json!([ids]), json!([PROMPT])] {
        let found = complete(&server, &json!({ "temperature": 0, "prompt": prompt }));
        assert_eq!(found["choices"][0]["text"], greedy.text);
    }
    let prompts = json!({ "temperature": 0, "prompt": ["Lily", PROMPT], "n": 2 });
    let found = complete(&server, &prompts);
    assert_eq!(found["choices"].as_array().unwrap().len(), 4);
    assert_eq!(found["choices"][2]["text"], greedy.text);
    assert_eq!(found["choices"][3]["text"], greedy.text);
}

#[test]
fn log_probabilities_of_prompt_and_text() {
    let (server, llamba) = (Server::start(|_| {}), llamba());
    let mut options = Generation::greedy().max_tokens(4);
    options.logprobs = Some(2);
    let expected = llamba.generate(PROMPT, &options).unwrap();
    let ids = llamba.tokenizer().unwrap().encode(PROMPT, true).unwrap();
    let ask = json!({ "temperature": 0, "max_tokens": 4, "logprobs": 2, "echo": true });
    let found = complete(&server, &ask);
    let choice = &found["choices"][0];
    assert_eq!(choice["text"], format!("{PROMPT}{}", expected.text));
    let lists = ["tokens", "token_logprobs", "top_logprobs", "text_offset"];
    for list in lists {
        assert_eq!(choice["logprobs"][list].as_array().unwrap().len(), ids.len() + 4, "{list}");
    }
    assert!(choice["logprobs"]["token_logprobs"][0].is_null());
    for (i, expected) in expected.logprobs.iter().enumerate() {
        let place = ids.len() + i;
        let found = choice["logprobs"]["token_logprobs"][place].as_f64().unwrap();
        assert!((found - f64::from(expected.chosen)).abs() < 1e-6, "{i}: {found}");
        let top = choice["logprobs"]["top_logprobs"][place].as_object().unwrap();
        assert_eq!(top.len(), 2);
        assert!(top.values().any(|value| value.as_f64() == Some(found)));
    }
    // The prompt's own: what scoring it token by token gives.
    let scored = complete(&server, &json!({ "max_tokens": 0, "logprobs": 0, "echo": true }));
    let scored = &scored["choices"][0]["logprobs"]["token_logprobs"];
    for place in 0..ids.len() {
        assert_eq!(scored[place], choice["logprobs"]["token_logprobs"][place], "{place}");
    }
    let mut short = Generation::greedy().max_tokens(1);
    short.logprobs = Some(20);
    let last = llamba.generate(&ids[..ids.len() - 1], &short).unwrap();
    let of_last = last.logprobs[0].top.iter().find(|(id, _)| *id == ids[ids.len() - 1]);
    if let Some((_, value)) = of_last {
        let found = scored[ids.len() - 1].as_f64().unwrap();
        assert!((found - f64::from(*value)).abs() < 1e-5, "{found} {value}");
    }
}

#[test]
fn streams_are_the_whole_answer_in_pieces() {
    let server = Server::start(|_| {});
    let ask = json!({
        "model": MODEL, "prompt": [PROMPT, "Lily"], "max_tokens": 15, "seed": 1, "n": 2,
        "echo": true, "logprobs": 1, "stop": "the",
    });
    let whole = server.post("/v1/completions", &ask).ok();
    let mut streamed = ask;
    streamed["stream"] = true.into();
    streamed["stream_options"] = json!({ "include_usage": true });
    let chunks = server.stream("/v1/completions", &streamed).all();
    let mut texts = vec![String::new(); 4];
    let mut tokens = vec![Vec::new(); 4];
    for choice in chunks.iter().flat_map(|chunk| chunk["choices"].as_array().unwrap()) {
        let index = choice["index"].as_u64().unwrap() as usize;
        texts[index].push_str(choice["text"].as_str().unwrap());
        tokens[index].extend(choice["logprobs"]["tokens"].as_array().unwrap().clone());
    }
    for i in 0..4 {
        assert_eq!(whole["choices"][i]["text"], texts[i]);
        assert_eq!(whole["choices"][i]["logprobs"]["tokens"], json!(tokens[i]));
    }
    assert_eq!(chunks.last().unwrap()["usage"], whole["usage"]);

    let ask = json!({
        "model": MODEL, "max_tokens": 12, "seed": 4, "logprobs": true,
        "messages": [
            { "role": "system", "content": "Tell a story." },
            { "role": "user", "content": [{ "type": "text", "text": "Lily found a" }] },
        ],
    });
    let whole = server.post("/v1/chat/completions", &ask).ok();
    let mut streamed = ask;
    streamed["stream"] = true.into();
    let chunks = server.stream("/v1/chat/completions", &streamed).all();
    assert_eq!(chunks[0]["choices"][0]["delta"]["role"], "assistant");
    let text: String = chunks
        .iter()
        .filter_map(|chunk| chunk["choices"][0]["delta"]["content"].as_str())
        .collect();
    assert_eq!(whole["choices"][0]["message"]["content"], text);
    let entries = whole["choices"][0]["logprobs"]["content"].as_array().unwrap();
    assert_eq!(entries.len() as u64, whole["usage"]["completion_tokens"].as_u64().unwrap());
    assert!(chunks.iter().all(|chunk| chunk["object"] == "chat.completion.chunk"));
}

#[test]
fn what_cannot_be_done_is_refused_by_name() {
    let server = Server::start(|options| {
        options.engine.prompt_tokens = 50;
        options.strict = true;
    });
    let bad = |path: &str, more: Value, param: &str, part: &str| {
        let mut body = if path == "/v1/completions" {
            json!({ "model": MODEL, "prompt": "Lily" })
        } else {
            json!({ "model": MODEL, "messages": [{ "role": "user", "content": "Lily" }] })
        };
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        server.post(path, &body).is_error(400, Some(param), part);
    };
    let both = [
        (json!({ "temperature": 3 }), "temperature", "between 0 and 2"),
        (json!({ "temperature": "hot" }), "temperature", "invalid type"),
        (json!({ "top_p": -0.1 }), "top_p", "between 0 and 1"),
        (json!({ "n": 0 }), "n", "between 1 and"),
        (json!({ "n": 4096 }), "n", "between 1 and"),
        (json!({ "max_tokens": -2 }), "max_tokens", "less than -1"),
        (json!({ "stop": [""] }), "stop", "1 to 1024"),
        (json!({ "stop": 5 }), "stop", "expected a string or a list of strings"),
        (json!({ "presence_penalty": 9 }), "presence_penalty", "between"),
        (json!({ "logit_bias": { "99999": 1 } }), "logit_bias", "99999"),
        (json!({ "logit_bias": { "5": 101 } }), "logit_bias", "between -100 and 100"),
        (json!({ "logit_bias": { "5": 1e39 } }), "logit_bias", "between -100 and 100"),
        (json!({ "logit_bias": { "5": "Infinity" } }), "logit_bias.5", "invalid type"),
        (json!({ "logit_bias": { "5": null } }), "logit_bias.5", "invalid type"),
        (json!({ "nonsense": 1 }), "nonsense", "unknown parameter"),
    ];
    for path in ["/v1/completions", "/v1/chat/completions"] {
        for (more, param, part) in both.clone() {
            bad(path, more, param, part);
        }
    }
    let long = "word ".repeat(100);
    let completions = [
        (json!({ "best_of": 2 }), "best_of", "not supported"),
        (json!({ "suffix": "." }), "suffix", "not supported"),
        (json!({ "logprobs": 21 }), "logprobs", "more than 20"),
        (json!({ "prompt": [] }), "prompt", "0 prompts"),
        (json!({ "prompt": [[]] }), "prompt", "no tokens"),
        (json!({ "prompt": [4096] }), "prompt", "outside the vocabulary"),
        (json!({ "prompt": { "text": "x" } }), "prompt", "expected"),
        (json!({ "prompt": long }), "prompt", "more than 50"),
    ];
    for (more, param, part) in completions {
        bad("/v1/completions", more, param, part);
    }
    let image = json!([{ "role": "user", "content": [{ "type": "image_url" }] }]);
    let chat = [
        (json!({ "messages": [] }), "messages", "at least one"),
        (json!({ "messages": image }), "messages[0]", "text parts"),
        (json!({ "messages": [{ "role": "bob", "content": "" }] }), "messages[0]", "bob"),
        (json!({ "messages": [{ "role": "user" }] }), "messages[0]", "content"),
        (json!({ "messages": [{ "role": "user", "content": long }] }), "messages", "more than 50"),
        (json!({ "tool_choice": "required" }), "tool_choice", "not supported"),
        (json!({ "top_logprobs": 2 }), "top_logprobs", "only with logprobs"),
        (json!({ "max_completion_tokens": 0 }), "max_completion_tokens", "at least one"),
    ];
    for (more, param, part) in chat {
        bad("/v1/chat/completions", more, param, part);
    }
    // As null, what is not supported asks for nothing.
    let null = json!({ "model": MODEL, "prompt": "Lily", "best_of": null, "max_tokens": 1 });
    server.post("/v1/completions", &null).ok();

    let body = json!({ "model": "gpt-4", "prompt": "Lily" });
    server.post("/v1/completions", &body).is_error(404, Some("model"), "gpt-4");
    server.get("/v1/models/gpt-4").is_error(404, Some("model"), "gpt-4");
    assert_eq!(server.get(&format!("/v1/models/{MODEL}")).ok()["id"], MODEL);
    server.get("/v2").is_error(404, None, "nothing at this address");
    server.get("/v1/completions").is_error(405, None, "POST only");

    let raw = |body: &str| server.send(common::post("/v1/completions", body));
    raw("{\"model\": ").is_error(400, None, "not valid JSON");
    raw("[]").is_error(400, None, "not a JSON object");
    raw(&"[".repeat(100_000)).is_error(400, None, "recursion");
    raw(r#"{"model":"stories","prompt":"a","prompt":"b"}"#).is_error(
        400,
        None,
        "\"prompt\" is given twice",
    );
    raw(r#"{"model":"stories","prompt":"a","temperature":1e39}"#).is_error(
        400,
        Some("temperature"),
        "between 0 and 2",
    );
    raw(r#"{"model":"stories","prompt":"a","temperature":1e400}"#).is_error(400, None, "not valid");
    raw("{\"model\": \"\\ud800\"}").is_error(400, None, "not valid JSON");
    let plain = common::post("/v1/completions", "{}").replace("application/json", "text/plain");
    let plain = plain.replace("\r\n\r\n", "\r\norigin: https://a.example\r\n\r\n");
    server.send(&plain).is_error(415, None, "application/json");

    // After all that, the server is well.
    assert_eq!(server.get("/health").ok()["status"], "ok");
    complete(&server, &json!({ "prompt": "Lily" }));
}

/// Tools are handed to the template in the order in which they were written; one that has no
/// place for them says so.
#[test]
fn tools_are_in_the_template() {
    let template = "{% for t in tools or [] %}{{ t | tojson }}\n{% endfor %}\
        {% for m in messages %}{{ m.role }}: {{ m.content }}{{ m.tool_calls | tojson if m.tool_calls }}\n\
        {% endfor %}";
    let server = Server::with_template(template, |_| {});
    // Written out, as a map would forget the order.
    let body = r#"{
        "model": "stories", "max_tokens": 5, "temperature": 0,
        "tools": [{ "type": "function", "function": { "name": "look", "parameters": { "b": 1, "a": 2.0 } } }],
        "messages": [
            { "role": "user", "content": "Hi" },
            { "role": "assistant", "tool_calls": [{ "type": "function", "id": "1" }] },
            { "role": "tool", "content": "42", "tool_call_id": "1" }
        ]
    }"#;
    let text = "{\"type\": \"function\", \"function\": {\"name\": \"look\", \
        \"parameters\": {\"b\": 1, \"a\": 2.0}}}\nuser: Hi\n\
        assistant: [{\"type\": \"function\", \"id\": \"1\"}]\ntool: 42\n";
    let llamba = llamba();
    let ids = llamba.tokenizer().unwrap().encode(text, false).unwrap();
    let expected = llamba.generate(&ids, &Generation::greedy().max_tokens(5)).unwrap();
    let found = server.send(common::post("/v1/chat/completions", body)).ok();
    assert_eq!(found["usage"]["prompt_tokens"], ids.len());
    assert_eq!(found["choices"][0]["message"]["content"], expected.text);
    // A session has them from its beginning.
    let begin = r#"{"model":"stories","tools":[{"type":"function","function":{"name":"look","parameters":{"b":1,"a":2.0}}}]}"#;
    let id = server.send(common::post("/v1/sessions", begin)).ok()["id"].clone();
    let path = format!("/v1/sessions/{}/chat/completions", id.as_str().unwrap());
    let tools = body.lines().filter(|line| !line.contains("\"tools\"")).collect::<String>();
    let found = server.send(common::post(&path, &tools)).ok();
    assert_eq!(found["usage"]["prompt_tokens"], ids.len());
    assert_eq!(found["choices"][0]["message"]["content"], expected.text);

    let plain = Server::start(|_| {});
    for (path, body) in [("/v1/chat/completions", body), ("/v1/sessions", begin)] {
        let refused = plain.send(common::post(path, body));
        refused.is_error(400, Some("tools"), "no place for them");
    }
    let mut forced: Value = serde_json::from_str(body).unwrap();
    forced["tool_choice"] = json!("required");
    let refused = plain.post("/v1/chat/completions", &forced);
    refused.is_error(400, Some("tools"), "--chat-template chatml");
}

#[test]
fn a_models_own_sampling_is_the_default() {
    let server = Server::sampling(r#"{"temperature": 0.0}"#);
    let text = |more: Value| by_default(&server, &more)["choices"][0]["text"].clone();
    let greedy = text(json!({ "temperature": 0, "seed": 1 }));
    assert_eq!(text(json!({ "seed": 1 })), greedy);
    assert_eq!(text(json!({ "seed": 2 })), greedy);
    assert_ne!(text(json!({ "seed": 2, "temperature": 1 })), greedy);
}
