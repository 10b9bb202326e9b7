//! The server keeps within its memory for requests, whatever their bodies are.

#![allow(clippy::unwrap_used)]

mod common;

use std::cell::Cell;
use std::time::Duration;

use common::{MODEL, Server, post_bytes};
use peak_alloc::PeakAlloc;
use serde_json::json;

#[global_allocator]
static HEAP: PeakAlloc = PeakAlloc;

/// Repeats a piece up to about `size` bytes, with commas between.
fn list(piece: &str, size: usize) -> String {
    vec![piece; (size / (piece.len() + 1)).max(1)].join(",")
}

/// Requests that cost much memory for each byte, or much for being long.
fn hostile(size: usize) -> Vec<(&'static str, &'static str, Vec<u8>)> {
    let words = "Lily saw a big red ball. ".repeat(size / 25);
    let word = "x".repeat(size);
    let chat = |more: &str| {
        format!(r#"{{"max_tokens":1,"messages":[{{"role":"user","content":"x"}}],{more}}}"#)
    };
    let prompt = |prompt: String| format!(r#"{{"max_tokens":1,"prompt":{prompt}}}"#);
    let tool = r#"{"type":"function","function":{"name":"a","parameters":{"type":"object","properties":{"a":{"a":1}}}}}"#;
    let (c, h) = ("/v1/completions", "/v1/chat/completions");
    let texts = vec![
        ("words", c, prompt(json!(words).to_string())),
        ("one word", c, prompt(json!(word).to_string())),
        ("escapes", c, prompt(format!("\"{}\"", r"\u0001".repeat(size / 6)))),
        ("lists", c, prompt(format!("[{}]", list("[1]", size)))),
        ("ids", c, prompt(format!("[{}]", list("1", size)))),
        ("long ids", c, prompt(format!("[{}]", list("12345", size)))),
        ("texts", c, prompt(format!("[{}]", list("\"\"", size)))),
        ("texts a", c, prompt(format!("[{}]", list("\"a\"", size)))),
        ("stop", c, format!(r#"{{"prompt":"x","max_tokens":1,"stop":[{}]}}"#, list("\"\"", size))),
        ("stop chat", h, chat(&format!(r#""stop":[{}]"#, list("\"\"", size)))),
        (
            "bias",
            c,
            format!(
                r#"{{"prompt":"x","max_tokens":1,"logit_bias":{{{}}}}}"#,
                (0..size / 10).map(|i| format!("\"{i}\":1")).collect::<Vec<_>>().join(",")
            ),
        ),
        (
            "messages",
            h,
            format!(
                r#"{{"max_tokens":1,"messages":[{}]}}"#,
                list(r#"{"role":"user","content":""}"#, size)
            ),
        ),
        (
            "more fields",
            h,
            format!(
                r#"{{"max_tokens":1,"messages":[{}]}}"#,
                list(r#"{"role":"user","content":"","a":{"a":[]}}"#, size)
            ),
        ),
        (
            "parts",
            h,
            format!(
                r#"{{"max_tokens":1,"messages":[{{"role":"user","content":[{}]}}]}}"#,
                list(r#"{"type":"text","text":"a"}"#, size)
            ),
        ),
        (
            "calls",
            h,
            format!(
                r#"{{"max_tokens":1,"messages":[{{"role":"user","content":"x"}},{{"role":"assistant","tool_calls":[{}]}}]}}"#,
                list(r#"{"function":{"arguments":{}}}"#, size)
            ),
        ),
        (
            "a long message",
            h,
            format!(
                r#"{{"max_tokens":1,"messages":[{{"role":"user","content":{}}}]}}"#,
                json!(words)
            ),
        ),
        (
            "special tokens",
            h,
            format!(
                r#"{{"max_tokens":1,"messages":[{{"role":"user","content":{}}}]}}"#,
                json!("<|endoftext|>".repeat(size / 13))
            ),
        ),
        ("tools", h, chat(&format!(r#""tools":[{}]"#, list(tool, size)))),
        (
            "a tool",
            h,
            chat(&format!(
                r#""tools":[{{"type":"function","function":{{"name":"a","parameters":[{}]}}}}]"#,
                list("{\"a\":{}}", size)
            )),
        ),
        ("kwargs", h, chat(&format!(r#""chat_template_kwargs":{{"a":[{}]}}"#, list("[]", size)))),
        ("unknown", h, chat(&format!(r#""unknown":[{}]"#, list("{\"a\":[]}", size)))),
        (
            "schema",
            c,
            format!(
                r#"{{"prompt":"x","max_tokens":1,"response_format":{{"type":"json_schema","json_schema":{{"schema":{{"enum":[{}]}}}}}}}}"#,
                list("[]", size)
            ),
        ),
        (
            "anthropic",
            "/v1/messages",
            format!(
                r#"{{"max_tokens":1,"messages":[{}]}}"#,
                list(r#"{"role":"user","content":[{"type":"text","text":""}]}"#, size)
            ),
        ),
        (
            "responses",
            "/v1/responses",
            format!(
                r#"{{"max_output_tokens":1,"input":[{}]}}"#,
                list(r#"{"role":"user","content":""}"#, size)
            ),
        ),
        (
            "call outputs",
            "/v1/responses",
            format!(
                r#"{{"max_output_tokens":1,"input":[{}]}}"#,
                list(r#"{"type":"function_call","call_id":"","name":"","arguments":""}"#, size)
            ),
        ),
        ("embeddings", "/v1/embeddings", format!(r#"{{"input":[{}]}}"#, list("[1]", size))),
        ("detokenize", "/v1/detokenize", format!(r#"{{"tokens":[{}]}}"#, list("1", size))),
        ("tokenize", "/v1/tokenize", format!(r#"{{"prompt":{}}}"#, json!(words))),
        (
            "session",
            "/v1/sessions",
            format!(r#"{{"messages":[{}]}}"#, list(r#"{"role":"user","content":""}"#, size)),
        ),
        ("import", "/v1/sessions/import", "x".repeat(size)),
    ];
    let lists = list("[]", size);
    let tools = json!({"tools": serde_json::from_str::<serde_json::Value>(&format!("[{lists}]")).unwrap(), "now": 0});
    let saved = |options: serde_json::Value, entries: serde_json::Value| {
        json!({
            "model": "", "tokenizer": "", "source": "", "template": {"name": "", "source": ""},
            "options": options, "entries": entries, "budget": 0, "places": [],
        })
    };
    let entry = json!({
        "message": {"role": "user", "content": "", "a": []}, "ids": [], "read": false,
        "joined": false, "sampled": false, "closing": null,
    });
    let entries = vec![entry; size / 100];
    let description = r#"{"dtype":"F32","shape":[0],"data_offsets":[0,0]}"#;
    let tensors: Vec<_> = (0..size / 60).map(|i| format!("\"{i}\":{description}")).collect();
    let names: Vec<_> = (0..size / 10).map(|i| format!("\"{i}\":\"\"")).collect();
    let i = "/v1/sessions/import";
    texts
        .into_iter()
        .map(|(name, path, text)| (name, path, text.into_bytes()))
        .chain([
            ("lists in a session", i, session(&saved(tools, json!([])).to_string(), "")),
            (
                "messages of a session",
                i,
                session(&saved(json!({"now": 0}), json!(entries)).to_string(), ""),
            ),
            ("tensors of a session", i, session("", &format!(",{}", tensors.join(",")))),
            (
                "texts of a session",
                i,
                file(&format!(r#"{{"__metadata__":{{{}}}}}"#, names.join(","))),
            ),
            (
                "a tensor of a session",
                i,
                file(&format!(r#"{{"a":{{"dtype":"F32","shape":[{}]}}}}"#, list("0", size))),
            ),
        ])
        .collect()
}

/// A saved session with this JSON and these tensors, and the right checksum where it is sound.
fn session(json: &str, tensors: &str) -> Vec<u8> {
    let metadata = json!({"format": "mlx-llamba-session", "version": "1", "session": json});
    let file = file(&format!(r#"{{"__metadata__":{metadata}{tensors}}}"#));
    mlx_llamba::files::resealed(&file).unwrap_or(file)
}

/// A safetensors file with this header and nothing else.
fn file(header: &str) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes(), header.as_bytes()].concat()
}

const LIMIT: usize = 12 << 20;

/// Checks the most memory that work takes.
fn peak_of(what: &str, work: &dyn Fn()) {
    let before = HEAP.current_usage();
    HEAP.reset_peak_usage();
    work();
    let peak = HEAP.peak_usage() - before;
    assert!(peak <= LIMIT, "{what}: {peak} bytes of {LIMIT}");
}

/// A conversation that the server keeps counts for each request that continues it. To run alone.
#[test]
fn continued_conversations_stay_within_the_budget() {
    let server = &Server::with_template("a", |options| options.limits.memory = LIMIT);
    let input = vec![json!({ "role": "user", "content": "" }); 1200];
    let first = json!({ "model": MODEL, "max_output_tokens": 1, "input": input });
    let first = server.post("/v1/responses", &first).ok();
    let next = json!({
        "model": MODEL, "max_output_tokens": 1, "input": "a", "previous_response_id": first["id"],
    });
    peak_of("continued", &|| {
        std::thread::scope(|scope| {
            let statuses =
                [0; 24].map(|_| scope.spawn(|| server.post("/v1/responses", &next).status));
            let statuses = statuses.map(|status| status.join().unwrap());
            assert!(statuses.iter().all(|status| [200, 503].contains(status)), "{statuses:?}");
            assert!(statuses.contains(&200), "{statuses:?}");
        });
    });
}

#[test]
fn memory_stays_within_the_budget() {
    let server = &Server::with_template("{{ messages }}{{ tools }}", |options| {
        options.limits.memory = LIMIT;
        options.engine.cache_memory = 0;
        options.engine.request_timeout = Duration::from_millis(1);
    });
    let small = json!({ "model": MODEL, "prompt": "Lily", "max_tokens": 1, "temperature": 0 });
    server.post("/v1/completions", &small);
    // Each kind alone, as large as it is allowed.
    let mut all = Vec::new();
    for kind in 0..hostile(1).len() {
        let mut size = 1 << 15;
        loop {
            let (name, path, body) = hostile(size).swap_remove(kind);
            let request = post_bytes(path, &body);
            drop(body);
            let status = Cell::new(0);
            peak_of(name, &|| status.set(server.send(&request).status));
            if status.get() != 413 {
                assert!([200, 400, 504].contains(&status.get()), "{name}: {}", status.get());
                all.push(request);
                break;
            }
            size /= 2;
        }
    }
    // All at once; others are answered.
    all.extend_from_within(..);
    peak_of("all", &|| {
        std::thread::scope(|scope| {
            let statuses: Vec<_> = all
                .iter()
                .map(|request| scope.spawn(move || server.send(request).status))
                .collect();
            for _ in 0..20 {
                let answer = server.post("/v1/completions", &small);
                assert!([200, 504].contains(&answer.status), "{answer:?}");
            }
            let statuses: Vec<u16> = statuses.into_iter().map(|s| s.join().unwrap()).collect();
            let known = |status: &u16| [200, 400, 503, 504].contains(status);
            assert!(statuses.iter().all(known), "{statuses:?}");
        });
    });
    assert_eq!(server.metric("mlx_llamba_request_memory_bytes"), 0.0);
}
