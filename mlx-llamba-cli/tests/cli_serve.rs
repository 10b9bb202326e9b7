//! `mlx-llamba serve`: start, requests, clean shutdown, and errors.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Stdio};

use mlx_llamba_tests::command::{Cli, signal};

const CLI: Cli = Cli(env!("CARGO_BIN_EXE_mlx-llamba"));

/// Starts a server and returns its address.
fn start(args: &[&str]) -> (Child, BufReader<std::process::ChildStderr>, String) {
    let args = [&["--log-level", "info", "serve", "--bind", "127.0.0.1:0"], args].concat();
    let mut child = CLI.spawn(&args, Stdio::null());
    let mut err = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    err.read_line(&mut line).unwrap();
    let address = line.trim_end().rsplit_once("http://").expect(&line).1.to_owned();
    (child, err, address)
}

fn send(address: &str, method: &str, path: &str, header: &str, body: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    let length = body.len();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n{header}\
         content-type: application/json\r\ncontent-length: {length}\r\n\r\n"
    );
    stream.write_all(format!("{head}{body}").as_bytes()).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

#[test]
fn serves_until_it_is_asked_to_end() {
    let keys = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(keys.path(), "one\n\ntwo\n").unwrap();
    let keys = keys.path().to_str().unwrap();
    // A template of the tokenizer can be named.
    let tokenizer = tempfile::tempdir().unwrap();
    let assets = concat!(env!("CARGO_MANIFEST_DIR"), "/../mlx-llamba/assets/llamba-stories");
    let [from, to] = [assets, tokenizer.path().to_str().unwrap()];
    std::fs::copy(format!("{from}/tokenizer.json"), format!("{to}/tokenizer.json")).unwrap();
    let config = r#"{"chat_template": {"default": "A", "long": "Once upon a time"}}"#;
    std::fs::write(tokenizer.path().join("tokenizer_config.json"), config).unwrap();
    let named = ["--tokenizer", to, "--chat-template", "long"];
    let (mut child, mut err, address) =
        start(&[&["--served-name", "x", "--api-key-file", keys][..], &named].concat());
    assert!(send(&address, "GET", "/v1/models", "", "").starts_with("HTTP/1.1 401"));
    let key = "authorization: Bearer two\r\n";
    assert!(send(&address, "GET", "/v1/models", key, "").contains("\"id\":\"x\""));
    let messages = r#"{"messages":[{"role":"user","content":"Hi"}]}"#;
    let tokens = send(&address, "POST", "/v1/tokenize", key, messages);
    assert!(tokens.contains("866,941,259,700"), "{tokens}");
    let secret = "A secret about Lily";
    let body = format!("{{\"model\":\"x\",\"prompt\":\"{secret}\",\"max_tokens\":3}}");
    let answer = send(&address, "POST", "/v1/completions", key, &body);
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    signal(&child, "INT");
    let mut log = String::new();
    err.read_to_string(&mut log).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0), "{log}");
    assert!(log.contains("status=200") && log.contains("shutting down"), "{log}");
    assert!(!log.contains(secret) && !log.contains("two"), "{log}");
}

/// The second signal does not wait for running requests.
#[test]
fn the_second_signal_ends_at_once() {
    let (mut child, mut err, address) = start(&["--grace", "600", "--max-tokens", "1000000"]);
    let body = "{\"model\":\"llamba-stories\",\"prompt\":\"Lily\",\"max_tokens\":1000000,\
                \"stream\":true,\"logit_bias\":{\"0\":-100,\"1\":-100}}";
    let mut stream = TcpStream::connect(&address).unwrap();
    let length = body.len();
    let head = format!(
        "POST /v1/completions HTTP/1.1\r\nhost: localhost\r\n\
         content-type: application/json\r\ncontent-length: {length}\r\n\r\n"
    );
    stream.write_all(format!("{head}{body}").as_bytes()).unwrap();
    // The reply has started.
    stream.read_exact(&mut [0; 64]).unwrap();
    signal(&child, "INT");
    let mut line = String::new();
    while !line.contains("shutting down") {
        line.clear();
        assert_ne!(err.read_line(&mut line).unwrap(), 0, "it says that it shuts down");
    }
    signal(&child, "INT");
    assert_eq!(child.wait().unwrap().code(), Some(130));
}

#[test]
fn prompts_are_logged_if_asked_for() {
    let (mut child, mut err, address) = start(&["--log-prompts"]);
    let body = "{\"model\":\"llamba-stories\",\"prompt\":\"Lily saw\",\"max_tokens\":3}";
    assert!(send(&address, "POST", "/v1/completions", "", body).starts_with("HTTP/1.1 200"));
    signal(&child, "TERM");
    let mut log = String::new();
    err.read_to_string(&mut log).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0), "{log}");
    assert!(log.contains("Lily saw"), "{log}");
}

#[test]
fn says_why_it_cannot_serve() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    CLI.fails(&["serve", "--bind", &address], &["cannot listen on", &address]);
    CLI.fails(&["serve", "--api-key-file", "/nowhere"], &["/nowhere"]);
    CLI.fails(&["serve", "--api-key-file", "/dev/null"], &["not a regular file"]);
    let empty = tempfile::NamedTempFile::new().unwrap();
    CLI.fails(&["serve", "--api-key-file", empty.path().to_str().unwrap()], &["has no keys"]);
    let free = ["serve", "--bind", "127.0.0.1:0"];
    let fails = |args: &[&str], parts: &[&str]| CLI.fails(&[&free, args].concat(), parts);
    let refuses = |args: &[&str], parts: &[&str]| CLI.refuses(&[&free, args].concat(), parts);
    fails(&["--model", "/nowhere/at/all"], &["/nowhere/at/all"]);
    fails(&["--chat-template", "/nowhere.jinja"], &["/nowhere.jinja"]);
    let folder = tempfile::tempdir().unwrap();
    let template = folder.path().join("costly.jinja");
    let source = "{% set s = 'a' * 1000000 %}{{ range(10000)|list|tojson(separators=[s, s]) }}";
    std::fs::write(&template, source).unwrap();
    let costly = ["--chat-template", template.to_str().unwrap()];
    fails(&costly, &["costly.jinja", "too much work or memory"]);
    fails(&["--state-memory", "0"], &["0 bytes for states"]);
    refuses(&["--max-rows", "0"], &["at least one"]);
    refuses(&["--prefill", "0"], &["prefill"]);
    refuses(&["--cors", "a b"], &["cors", "an origin"]);
    fails(&["--cache-directory", "/dev/null/x"], &["/dev/null/x"]);
    refuses(
        &["--cache-directory", "/tmp", "--cache-memory", "0"],
        &["/tmp", "memory for the cache"],
    );
}
