//! Bodies of HTTP requests, and whole requests.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::mpsc;
use std::time::Duration;

use mlx_llamba::Template;
use mlx_llamba_server::{Loaded, Options, serve};
use mlx_llamba_tests::chat;

use crate::harness::Target;

/// Sends bytes and returns status and body of the answer; 0 if there is none.
fn send(address: SocketAddr, request: &[u8]) -> (u16, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(15))).unwrap();
    // The server may have answered before the end, and may wait for more.
    let _ = stream.write_all(request).and_then(|()| stream.shutdown(std::net::Shutdown::Write));
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    let answer = String::from_utf8_lossy(&answer);
    // The server asks half-closed clients if they are still there.
    let answer = answer.strip_prefix("HTTP/1.1 100 Continue\r\n\r\n").unwrap_or(&answer);
    let status = answer.get(9..12).and_then(|code| code.parse().ok()).unwrap_or(0);
    (status, answer.split_once("\r\n\r\n").map_or("", |(_, body)| body).to_owned())
}

fn post(path: &str, body: &[u8]) -> Vec<u8> {
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}

#[test]
fn http() {
    let mut options = Options::default().model("tiny".to_owned());
    options.bind.set_port(0);
    options.limits.max_tokens = 4;
    options.engine.request_timeout = Duration::from_secs(2);
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let (ready, address) = mpsc::channel();
    let server = std::thread::spawn(move || {
        let load = || {
            let llamba = chat::load(1);
            let template = Template::of(llamba.require_tokenizer()?, None)?;
            Ok(Loaded { llamba, template: Some(template) })
        };
        let stopped = async {
            let _ = stopped.await;
        };
        serve(options, load, |address| ready.send(address).unwrap(), stopped).unwrap();
    });
    let address = address.recv().unwrap();
    let seeds: Vec<Vec<u8>> = [
        ("completions", r#"{"prompt":["Hi",[1,2]],"max_tokens":2,"stop":["a"],"logit_bias":{"5":-1},"n":2,"seed":1}"#),
        ("completions", r#"{"prompt":[[1],[2]],"max_tokens":1,"logprobs":2,"echo":true,"stream":true}"#),
        ("chat/completions", r#"{"messages":[{"role":"user","content":[{"type":"text","text":"Hi"}]}],"max_tokens":1,"top_logprobs":3,"logprobs":true}"#),
        ("chat/completions", r#"{"messages":[{"role":"user","content":"x"},{"role":"assistant","tool_calls":[{"id":"a","type":"function","function":{"name":"f","arguments":"{}"}}]}],"tools":[{"type":"function","function":{"name":"f","parameters":{"type":"object","properties":{"a":{"type":"integer"}}}}}],"tool_choice":"auto","max_tokens":2}"#),
        ("chat/completions", r#"{"messages":[{"role":"user","content":"x"}],"response_format":{"type":"json_schema","json_schema":{"name":"a","schema":{"type":"object","properties":{"a":{"enum":[1,"b"]}},"required":["a"]}}},"max_tokens":3}"#),
        ("messages", r#"{"max_tokens":2,"system":"s","messages":[{"role":"user","content":[{"type":"text","text":"a"}]}],"stop_sequences":["x"],"stream":true}"#),
        ("messages/count_tokens", r#"{"messages":[{"role":"user","content":"a"}],"tools":[{"name":"f","input_schema":{"type":"object"}}]}"#),
        ("responses", r#"{"input":[{"role":"user","content":"x"},{"type":"function_call","call_id":"a","name":"f","arguments":"{}"}],"max_output_tokens":1,"instructions":"i","store":true}"#),
        ("responses", r#"{"input":"x","previous_response_id":"resp_0","max_output_tokens":1}"#),
        ("embeddings", r#"{"input":["a",[1,2]],"encoding_format":"base64","dimensions":3}"#),
        ("tokenize", r#"{"messages":[{"role":"user","content":"a"}],"add_special_tokens":false}"#),
        ("detokenize", r#"{"tokens":[1,2,260]}"#),
        ("sessions", r#"{"messages":[{"role":"system","content":"a"}],"tools":[]}"#),
        ("sessions/import", "\u{2}\0\0\0\0\0\0\0{}"),
    ]
    .map(|(path, body)| post(&format!("/v1/{path}"), body.as_bytes()))
    .to_vec();
    let words = &[
        "\"type\":\"text\"",
        "\"role\":\"assistant\"",
        "\"role\":\"tool\"",
        "\"content\":null",
        "\"n\":128",
        "\"stream\":true",
        "\"temperature\":0",
        "\"top_p\":0",
        "\"grammar\":\"start: /a+/\"",
        "\"guided_regex\":\"(a|b){3,}\"",
        "\"$ref\":\"#\"",
        "\"anyOf\":[",
        "\"pattern\":\"^a\"",
        "\"minimum\":-1",
        "\"suffix\":\"a\"",
        "\"user\":\"u\"",
        "\"cache_salt\":\"s\"",
        "\\ud800",
        "\\u0000",
        "null",
        "true",
        "[[",
        "]]",
        "{",
        "}",
        ",",
        "Transfer-Encoding: chunked\r\n",
        "GET / HTTP/1.1\r\n",
        "Host: localhost\r\n",
        "Expect: 100-continue\r\n",
    ];
    let greedy = post("/v1/completions", br#"{"prompt":"Hi","max_tokens":3,"temperature":0}"#);
    let (status, expected) = send(address, &greedy);
    assert_eq!(status, 200, "{expected}");
    let text = |body: &str| {
        serde_json::from_str::<serde_json::Value>(body).unwrap()["choices"].to_string()
    };
    let expected = text(&expected);
    let mut count = 0;
    Target { name: "http", seeds, words }.fuzz(|bytes| {
        // A damaged request as it is, or with the length that its body has.
        let split =
            bytes.windows(4).position(|end| end == b"\r\n\r\n").filter(|_| bytes.len() % 8 != 0);
        let request = split.map(|at| {
            let path = bytes.split(|byte| *byte == b' ').nth(1).unwrap_or_default();
            post(std::str::from_utf8(path).unwrap_or("/v1/completions"), &bytes[at + 4..])
        });
        let (status, body) = send(address, request.as_deref().unwrap_or(bytes));
        assert_ne!(status, 500, "{body}");
        count += 1;
        if count % 50 == 0 {
            let (status, body) = send(address, &greedy);
            assert_eq!((status, text(&body)), (200, expected.clone()), "others are answered");
        }
        format!("{status} {body}")
    });
    drop(stop);
    server.join().unwrap();
}
