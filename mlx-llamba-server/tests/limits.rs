//! Requests that are too large, too slow or not allowed get an error, and others are not affected.

#![allow(clippy::unwrap_used)]

mod common;

use std::io::{Read, Write};
use std::net::Shutdown;
use std::time::{Duration, Instant};

use common::{Answer, MODEL, Server, endless};
use serde_json::{Value, json};

fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

fn small() -> Value {
    json!({ "model": MODEL, "prompt": "Lily", "max_tokens": 3 })
}

#[test]
fn slow_clients_are_cut_off() {
    let server = Server::start(|options| {
        options.limits.head_timeout = ms(300);
        options.limits.body_timeout = ms(300);
        options.limits.body = 10_000;
    });
    let start = Instant::now();
    let mut heads: Vec<_> = (0..20).map(|_| server.connect()).collect();
    for stream in &mut heads {
        stream.write_all(b"POST /v1/completions HTTP/1.1\r\nhost: local").unwrap();
    }
    let mut body = server.connect();
    let head = "POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: 100\r\n\
                content-type: application/json\r\n\r\n{\"mod";
    body.write_all(head.as_bytes()).unwrap();
    // Others do not notice.
    server.post("/v1/completions", &small()).ok();
    Answer::read(body).is_error(408, None, "too long to arrive");
    for mut stream in heads {
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest);
        assert!(!String::from_utf8_lossy(&rest).starts_with("HTTP/1.1 200"));
    }
    assert!(start.elapsed() < Duration::from_secs(10));

    let large = json!({ "model": MODEL, "prompt": "x".repeat(20_000) });
    server.post("/v1/completions", &large).is_error(413, None, "10000 bytes");
    let chunked = "POST /v1/completions HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\
                   content-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n";
    let piece = format!("1000\r\n{}\r\n", "x".repeat(0x1000));
    server.send(format!("{chunked}{}0\r\n\r\n", piece.repeat(5))).is_error(413, None, "10000");
    // Whoever says how much will come need not send it.
    let mut large = server.connect();
    let head = head.replace("content-length: 100", "content-length: 10001");
    large.write_all(head.as_bytes()).unwrap();
    Answer::read(large).is_error(413, None, "10000 bytes");
    let long_head =
        format!("GET /health HTTP/1.1\r\nhost: localhost\r\nx: {}", "y".repeat(400_000));
    let refused = server.send(format!("{long_head}\r\n\r\n"));
    refused.is_error(431, None, "head of the request is too large");
    server.send("GET / NONSENSE\r\n\r\n").is_error(400, None, "not HTTP/1.1");
    server.post("/v1/completions", &small()).ok();
}

#[test]
fn a_full_queue_says_when_to_come_back() {
    let server = Server::start(|options| {
        options.engine.rows = Some(1);
        options.engine.queue = 2;
    });
    let mut first = endless("Lily", 4000);
    first["stream"] = true.into();
    let mut running = server.stream("/v1/completions", &first);
    running.next().unwrap();
    let waiting: Vec<_> = (0..2).map(|_| server.stream("/v1/completions", &small())).collect();
    server.wait_for("mlx_llamba_waiting", 2.0);
    let refused = server.post("/v1/completions", &small());
    refused.is_error(429, None, "2 of at most 2");
    assert!(refused.head.contains("\r\nretry-after: "), "{refused:?}");
    assert_eq!(server.metric("mlx_llamba_refused_total"), 1.0);
    // A client that goes away makes room; those that wait get their turn.
    drop(running);
    for mut answer in waiting {
        let mut text = String::new();
        answer.0.read_to_string(&mut text).unwrap();
        assert!(text.starts_with("HTTP/1.1 200"), "{text}");
    }
    assert_eq!(server.metric("mlx_llamba_cancelled_total"), 1.0);
    server.wait_for("mlx_llamba_rows", 0.0);
}

#[test]
fn a_client_that_goes_away_while_it_waits_is_forgotten() {
    let server = Server::start(|options| options.engine.rows = Some(1));
    let mut first = endless("Lily", 4000);
    first["stream"] = true.into();
    let mut running = server.stream("/v1/completions", &first);
    running.next().unwrap();
    let waiting = server.stream("/v1/completions", &endless("Tom", 4000));
    server.wait_for("mlx_llamba_waiting", 1.0);
    drop(waiting);
    server.wait_for("mlx_llamba_cancelled_total", 1.0);
    server.wait_for("mlx_llamba_waiting", 0.0);
    drop(running);
    server.wait_for("mlx_llamba_rows", 0.0);
}

#[test]
fn a_request_ends_in_time() {
    let server = Server::start(|options| {
        options.engine.request_timeout = ms(200);
        options.limits.max_tokens = 1_000_000;
        options.limits.keep_alive = ms(20);
    });
    let body = endless("Lily", 1_000_000);
    server.post("/v1/completions", &body).is_error(504, None, "too long");
    let mut streamed = body;
    streamed["stream"] = true.into();
    let last = server.stream("/v1/completions", &streamed).last().unwrap();
    assert!(last.contains("\"code\":\"timeout\""), "{last}");
    server.wait_for("mlx_llamba_rows", 0.0);
}

#[test]
fn streams_show_signs_of_life_while_a_prompt_is_read() {
    let server = Server::start(|options| {
        options.limits.keep_alive = ms(20);
        options.engine.prefill = Some(16);
    });
    let prompt = "Once upon a time there was a big red ball. ".repeat(400);
    let ask = json!({ "model": MODEL, "prompt": prompt, "max_tokens": 1, "stream": true });
    let mut text = String::new();
    server.stream("/v1/completions", &ask).0.read_to_string(&mut text).unwrap();
    let before = text.split("data: ").next().unwrap();
    assert!(before.contains(": keep-alive"), "{text}");
}

/// Holds as many silent connections as a server takes; a further one is refused, until they end.
fn takes_connections(server: &Server, count: usize) {
    let held: Vec<_> = (0..count).map(|_| server.connect()).collect();
    std::thread::sleep(ms(100));
    Answer::read(server.connect()).is_error(503, None, "too many connections");
    drop(held);
    std::thread::sleep(ms(100));
    server.post("/v1/completions", &small()).ok();
}

#[test]
fn connections_are_counted() {
    takes_connections(&Server::start(|options| options.limits.connections = 3), 3);
}

/// An address with many silent connections leaves room for others.
#[test]
fn connections_of_an_address_are_counted() {
    takes_connections(&Server::start(|options| options.limits.connections_per_address = 2), 2);
}

/// Bodies that do not end take memory until others have no room, and give it back.
#[test]
fn bodies_are_counted_as_they_arrive() {
    let server = Server::start(|options| options.limits.memory = 4 << 20);
    let head = "POST /v1/completions HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n";
    let begin = || {
        let mut stream = server.connect();
        let sent = format!("{head}content-length: 900000\r\n\r\n{}", " ".repeat(800_000));
        stream.write_all(sent.as_bytes()).unwrap();
        stream
    };
    let end = |mut stream: std::net::TcpStream| {
        stream.write_all(" ".repeat(100_000).as_bytes()).unwrap();
        Answer::read(stream)
    };
    let first = begin();
    server.wait_for("mlx_llamba_request_memory_bytes", 800_000.0);
    // The second one is told so, once it has sent the rest.
    let refused = end(begin());
    refused.is_error(503, None, "other requests take the memory");
    assert!(refused.head.contains("\r\nretry-after: 1"), "{refused:?}");
    assert_ne!(end(first).status, 503);
    let lists = json!({ "model": MODEL, "prompt": vec![[1]; 2000] });
    server.post("/v1/completions", &lists).is_error(413, None, "MiB of memory");
    let word = json!({ "model": MODEL, "prompt": "x".repeat(20_000) });
    server.post("/v1/completions", &word).is_error(413, Some("prompt"), "to encode");
    server.post("/v1/completions", &small()).ok();
    server.wait_for("mlx_llamba_request_memory_bytes", 0.0);
}

/// A client that sends everything before it reads finds out why it is refused, whoever refuses it.
#[test]
fn clients_that_still_send_are_answered() {
    let body = vec![b'x'; 12 << 20];
    let send = |server: &Server, head: &str| {
        let mut stream = server.connect();
        let length = body.len();
        let head =
            format!("POST /v1/completions HTTP/1.1\r\n{head}content-length: {length}\r\n\r\n");
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(&body).unwrap();
        Answer::read(stream)
    };
    let server = Server::start(|options| options.limits.body = 10_000);
    send(&server, "host: localhost\r\n").is_error(413, None, "10000 bytes");
    send(&server, "host: x.example\r\n").is_error(403, None, "localhost only");
    send(&server, "host: localhost\r\nhost: localhost\r\n").is_error(400, None, "one Host");
    let long = format!("x: {}\r\n", "y".repeat(400_000));
    send(&server, &long).is_error(431, None, "too large");
    let server = Server::start(|options| options.api_keys = vec!["a".to_owned()]);
    send(&server, "host: localhost\r\n").is_error(401, None, "API key");
    let server = Server::start(|options| options.limits.connections = 1);
    let other = server.connect();
    // The other connection is open once it was answered.
    (&other).write_all(b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n").unwrap();
    (&other).read_exact(&mut [0; 15]).unwrap();
    send(&server, "host: localhost\r\n").is_error(503, None, "too many connections");
}

/// A client that says that it sends no more gets its answer, whole or in pieces.
#[test]
fn half_closed_connections_are_answered() {
    let server = Server::start(|_| {});
    for streams in [false, true] {
        let mut body = endless("Lily", 400);
        body["stream"] = streams.into();
        let mut stream = server.connect();
        stream.write_all(common::post("/v1/completions", &body.to_string()).as_bytes()).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        let text = text.strip_prefix("HTTP/1.1 100 Continue\r\n\r\n").unwrap_or(&text);
        assert!(text.starts_with("HTTP/1.1 200 OK"), "{text:.300}");
        let end = if streams { "data: [DONE]" } else { "\"usage\":" };
        assert!(text.contains(end), "{text:.300}");
    }
    // Of an old client no interim response is expected.
    let mut stream = server.connect();
    let body = endless("Lily", 200).to_string();
    let ask = common::post("/v1/completions", &body).replace("HTTP/1.1", "HTTP/1.0");
    stream.write_all(ask.as_bytes()).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    Answer::read(stream).ok();
    assert_eq!(server.metric("mlx_llamba_cancelled_total"), 0.0);
}

/// A prompt that cannot be short enough is refused without being encoded.
#[test]
fn long_prompts_are_refused_by_their_length() {
    let server = Server::start(|options| options.engine.prompt_tokens = 100);
    let prompt = "Lily saw a big red ball. ".repeat(200_000);
    let start = Instant::now();
    let long = json!({ "model": MODEL, "prompt": prompt });
    server.post("/v1/completions", &long).is_error(400, Some("prompt"), "more than 100");
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
}

#[test]
fn keys_hosts_and_origins() {
    let server = Server::start(|options| {
        options.api_keys = vec!["first".to_owned(), "second".to_owned()];
        options.cors = vec!["https://a.example".to_owned()];
    });
    let with = |header: &str| {
        let request =
            format!("GET /v1/models HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{header}\r\n");
        server.send(&request)
    };
    for header in [
        "",
        "authorization: Bearer\r\n",
        "authorization: Bearer firs\r\n",
        "authorization: Bearer first2\r\n",
        "authorization: Basic first\r\n",
    ] {
        let refused = with(header);
        refused.is_error(401, None, "API key");
        assert!(refused.head.contains("www-authenticate: bearer"));
    }
    for header in ["authorization: Bearer first\r\n", "Authorization: bearer second\r\n"] {
        with(header).ok();
    }
    server.get("/health").ok();
    server.get("/metrics").is_error(401, None, "API key");
    let key = "authorization: Bearer first\r\norigin:";
    assert!(with(&format!("{key} https://a.example\r\n")).head.contains("allow-origin: https://a"));
    assert!(!with(&format!("{key} https://b.example\r\n")).head.contains("allow-origin"));
    let ask = "OPTIONS /v1/completions HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\
               access-control-request-method: POST\r\norigin: https://a.example\r\n\
               access-control-request-headers: authorization,x-stainless-lang\r\n\r\n";
    let allowed = server.send(ask);
    assert_eq!(allowed.status, 204);
    let headers = "access-control-allow-headers: authorization,x-stainless-lang\r\n";
    assert!(allowed.head.contains(headers), "{}", allowed.head);
    // Such a page also reads when to come back, and the name of the answer, also of a refusal.
    for refused in ["", "authorization: Bearer first\r\n"] {
        let head = with(&format!("{refused}origin: https://a.example\r\n")).head;
        let exposed =
            "access-control-expose-headers: retry-after, x-request-id, x-ignored-parameters\r\n";
        assert!(head.contains(exposed) && head.contains("x-request-id: req-"), "{head}");
    }

    // Without keys, only names of this machine lead here.
    let server = Server::start(|_| {});
    for host in ["evil.example", "localhost.evil.example:80", "10.0.0.1"] {
        let ask = format!("GET /v1/models HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
        server.send(&ask).is_error(403, None, "localhost only");
    }
    for host in ["localhost", "LOCALHOST:80", "127.0.0.1:8080", "[::1]:80"] {
        let ask = format!("GET /v1/models HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
        server.send(&ask).ok();
    }
    assert!(!server.get("/health").head.contains("access-control"));
    // One host, of text; an old client need not name any.
    for hosts in ["", "host: localhost\r\nhost: localhost\r\n", "host: local\u{e9}\r\n"] {
        let ask = format!("GET /v1/models HTTP/1.1\r\n{hosts}connection: close\r\n\r\n");
        server.send(&ask).is_error(400, None, "one Host");
    }
    server.send("GET /v1/models HTTP/1.0\r\n\r\n").ok();
}

#[test]
fn shutdown_lets_requests_end() {
    let mut server = Server::start(|_| {});
    let mut body = endless("Lily", 300);
    body["stream"] = true.into();
    let mut running = server.stream("/v1/completions", &body);
    running.next().unwrap();
    server.stop();
    // The stream is whole, the server ends after it.
    running.all();
    server.ended();
    assert!(std::net::TcpStream::connect(server.address).is_err());
}

#[test]
fn shutdown_does_not_wait_for_ever() {
    let mut server = Server::start(|options| {
        options.limits.grace = ms(200);
        options.limits.max_tokens = 1_000_000;
        options.engine.rows = Some(1);
    });
    let mut body = endless("Lily", 1_000_000);
    body["stream"] = true.into();
    let mut running = server.stream("/v1/completions", &body);
    running.next().unwrap();
    let waiting = server.stream("/v1/completions", &body);
    server.wait_for("mlx_llamba_waiting", 1.0);
    let start = Instant::now();
    server.stop();
    server.ended();
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    for events in [running, waiting] {
        let last = events.last().unwrap();
        assert!(last.contains("shutting_down"), "{last}");
    }
}

/// A client learns why, but not where the server has its files.
#[test]
fn errors_show_no_path() {
    let server = Server::with_template("{{ raise_exception('No.') }}", |_| {});
    let chat = json!({ "messages": [{ "role": "user", "content": "Hi" }] });
    for path in ["/v1/chat/completions", "/v1/tokenize"] {
        server.post(path, &chat).is_error(400, Some("messages"), "chat template: No.");
    }
    let anthropic = json!({ "max_tokens": 1, "messages": chat["messages"] });
    server.post("/v1/messages", &anthropic).is_error(400, Some("messages"), "chat template: No.");
    let file = common::post_bytes("/v1/sessions/import", b"no session");
    let refused = server.send(&file);
    assert!(refused.status == 400 && !refused.body.contains('/'), "{refused:?}");
}
