//! Sessions over HTTP, and beginnings of prompts that are not read again.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::io::{Read, Write};
use std::time::Duration;

use common::{Answer, MODEL, Server, endless};
use serde_json::{Value, json};

fn say(text: &str) -> Value {
    json!({
        "model": MODEL, "max_tokens": 12, "temperature": 0,
        "messages": [{ "role": "user", "content": text }],
    })
}

fn act(server: &Server, method: &str, path: &str) -> Answer {
    let head = "host: localhost\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
    server.send(format!("{method} {path} HTTP/1.1\r\n{head}"))
}

fn text(answer: &Value) -> String {
    answer["choices"][0]["message"]["content"].as_str().unwrap().to_owned()
}

/// The bytes of an answer's body.
fn bytes(server: &Server, request: &[u8]) -> Vec<u8> {
    let mut stream = server.connect();
    stream.write_all(request).unwrap();
    let mut all = Vec::new();
    stream.read_to_end(&mut all).unwrap();
    let head = all.windows(4).position(|w| w == b"\r\n\r\n").unwrap();
    assert!(all.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&all[..head]));
    all.split_off(head + 4)
}

#[test]
fn a_conversation() {
    let server = Server::start(|_| {});
    let created = server.post("/v1/sessions", &json!({ "model": MODEL })).ok();
    let path = format!("/v1/sessions/{}", created["id"].as_str().unwrap());
    let chat = format!("{path}/chat/completions");
    assert_eq!((&created["messages"], &created["tokens"]), (&json!([]), &json!(0)));

    // Every turn reads its own tokens only, and gives what the whole conversation gives.
    let first = server.post(&chat, &say("Once upon a time")).ok();
    let second = server.post(&chat, &say("Then a dog")).ok();
    let known = &first["usage"]["total_tokens"];
    assert_eq!(&second["usage"]["prompt_tokens_details"]["cached_tokens"], known);
    let mut whole = say("Once upon a time");
    whole["messages"] = json!([
        { "role": "user", "content": "Once upon a time" },
        { "role": "assistant", "content": text(&first) },
        { "role": "user", "content": "Then a dog" },
    ]);
    let stateless = server.post("/v1/chat/completions", &whole).ok();
    assert_eq!(text(&second), text(&stateless));
    let view = server.get(&path).ok();
    assert_eq!(view["messages"].as_array().unwrap().len(), 4);
    assert_eq!(view["messages"][3]["content"], text(&second));

    // A fork goes its own way; undone, the same question gets the same answer.
    let fork = act(&server, "POST", &format!("{path}/fork")).ok();
    let fork = format!("/v1/sessions/{}", fork["id"].as_str().unwrap());
    assert_ne!(fork, path);
    server.post(&format!("{fork}/chat/completions"), &say("A bird sang")).ok();
    assert_eq!(server.get(&fork).ok()["messages"].as_array().unwrap().len(), 6);
    let undone = act(&server, "POST", &format!("{path}/undo")).ok();
    assert_eq!(undone["messages"].as_array().unwrap().len(), 2);
    assert_eq!(text(&server.post(&chat, &say("Then a dog")).ok()), text(&second));

    // As a stream it is the same, and the session has it afterwards.
    server.post(&format!("{path}/rewind"), &json!({ "messages": 2 })).ok();
    let mut streamed = say("Then a dog");
    streamed["stream"] = true.into();
    let chunks = server.stream(&chat, &streamed).all();
    let pieces = chunks.iter().filter_map(|c| c["choices"][0]["delta"]["content"].as_str());
    assert_eq!(pieces.collect::<String>(), text(&second));
    assert_eq!(server.get(&path).ok()["messages"][3]["content"], text(&second));

    // Exported and imported, it goes on as it would have.
    let ask = format!("GET {path}/export HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
    let file = bytes(&server, ask.as_bytes());
    let send = |file: &[u8]| {
        let head = format!(
            "POST /v1/sessions/import HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\
             content-type: application/octet-stream\r\ncontent-length: {}\r\n\r\n",
            file.len()
        );
        let mut stream = server.connect();
        let _ = stream.write_all(&[head.as_bytes(), file].concat());
        Answer::read(stream)
    };
    let imported = send(&file).ok();
    let imported = format!("/v1/sessions/{}/chat/completions", imported["id"].as_str().unwrap());
    let next = server.post(&chat, &say("In the end")).ok();
    assert_eq!(text(&server.post(&imported, &say("In the end")).ok()), text(&next));

    // Damaged files are refused, whatever is wrong with them.
    for at in [0, 7, 9, 100, 3000, file.len() / 2, file.len() - 1] {
        let mut damaged = file.clone();
        damaged[at] ^= 0x41;
        let answer = send(&damaged);
        assert!(answer.status == 400 || answer.status == 200, "{at}: {answer:?}");
        send(&file[..at]).is_error(400, None, "sent");
    }
    send(b"").is_error(400, None, "sent");

    act(&server, "DELETE", &path).ok();
    server.get(&path).is_error(404, Some("id"), "no session");
    server.post(&chat, &say("Hello?")).is_error(404, Some("id"), "no session");
}

#[test]
fn a_turn_that_fails_has_never_been() {
    let server = Server::start(|options| {
        options.engine.sessions = 2;
        options.engine.prompt_tokens = 60;
        options.strict = true;
    });
    let id = server.post("/v1/sessions", &json!({ "model": MODEL })).ok()["id"].clone();
    let path = format!("/v1/sessions/{}", id.as_str().unwrap());
    let chat = format!("{path}/chat/completions");
    let first = server.post(&chat, &say("Once upon a time")).ok();
    let before = server.get(&path).ok();

    let mut long = endless("", 4000);
    long.as_object_mut().unwrap().remove("prompt");
    long["messages"] = say("Then a dog")["messages"].clone();
    long["stream"] = true.into();
    let mut events = server.stream(&chat, &long);
    events.next().unwrap();
    // While a reply is generated, nothing else happens to the session.
    server.post(&chat, &say("Wait")).is_error(409, None, "being generated");
    act(&server, "POST", &format!("{path}/undo")).is_error(409, None, "being generated");
    drop(events);
    server.wait_for("mlx_llamba_rows", 0.0);
    assert_eq!(server.get(&path).ok(), before);

    server.post(&chat, &say(&"word ".repeat(80))).is_error(400, Some("messages"), "more than 60");
    let mut two = say("Then");
    two["n"] = 2.into();
    server.post(&chat, &two).is_error(400, Some("n"), "one next message");
    let mut tools = say("Then");
    tools["tools"] = json!([{}]);
    server.post(&chat, &tools).is_error(400, Some("tools"), "at its beginning");
    assert_eq!(server.get(&path).ok(), before);
    let rewind = format!("{path}/rewind");
    server.post(&rewind, &json!({ "messages": 9 })).is_error(409, Some("messages"), "no message 9");
    server.post(&rewind, &json!({})).is_error(400, None, "missing field");

    // The reply to what follows is what it would have been.
    let reply = server.post(&chat, &say("Then a dog")).ok();
    assert_eq!(
        reply["usage"]["prompt_tokens_details"]["cached_tokens"],
        first["usage"]["total_tokens"]
    );
    server.post("/v1/sessions", &json!({ "model": MODEL })).ok();
    server.post("/v1/sessions", &json!({ "model": MODEL })).is_error(429, None, "2 sessions");
    server.post("/v1/sessions", &json!({ "model": "x" })).is_error(404, Some("model"), "x");
    let server_says = server.post("/v1/sessions", &json!({ "model": MODEL, "n": 1 }));
    server_says.is_error(400, Some("n"), "unknown parameter");
}

/// The tokens of a prompt that were not read again.
fn cached(answer: &Value) -> Option<u64> {
    answer["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64()
}

/// Returns the answer to a message, and a request with that answer and another message.
fn two_turns(server: &Server) -> (Value, Value) {
    let first = server.post("/v1/chat/completions", &say("Once upon a time there was a girl")).ok();
    let mut next = say("");
    next["messages"] = json!([
        { "role": "user", "content": "Once upon a time there was a girl" },
        { "role": "assistant", "content": text(&first) },
        { "role": "user", "content": "Then a dog" },
    ]);
    (first, next)
}

#[test]
fn known_beginnings_are_not_read_again() {
    let server = Server::start(|_| {});
    // The next request of a conversation begins where the last reply ended.
    let (first, next) = two_turns(&server);
    let second = server.post("/v1/chat/completions", &next).ok();
    assert_eq!(cached(&first), Some(0));
    assert_eq!(cached(&second), first["usage"]["total_tokens"].as_u64().map(|n| n - 1));
    // Without the cache the answer is the same.
    let plain = Server::start(|options| options.engine.cache_memory = 0);
    let unknown = plain.post("/v1/chat/completions", &next).ok();
    assert_eq!((cached(&unknown), text(&unknown)), (Some(0), text(&second)));

    // A system message that conversations share is known at once, and so is an equal prompt, but for
    // its last token.
    let system = "You tell stories about Lily, Tom and their red ball, in short words. ".repeat(3);
    let with_system = |server: &Server, said: &str| {
        let mut ask = say("");
        ask["messages"] = json!([
            { "role": "system", "content": system }, { "role": "user", "content": said },
        ]);
        server.post("/v1/chat/completions", &ask).ok()
    };
    let told = with_system(&server, "Once upon a time");
    assert_eq!(cached(&told), Some(0));
    let equal = with_system(&server, "Once upon a time");
    assert_eq!(cached(&equal), equal["usage"]["prompt_tokens"].as_u64().map(|n| n - 1));
    assert_eq!(text(&equal), text(&told));
    let other = with_system(&server, "A dog ran");
    assert!(cached(&other).unwrap() > 40, "{other}");
    assert_eq!(text(&other), text(&with_system(&plain, "A dog ran")));

    // Other beginnings that prompts share are known from the third on.
    let shared = "Lily and Tom went to the park with their red ball. ".repeat(4);
    let ask = |server: &Server, end: &str| {
        let prompt = format!("{shared}{end}");
        let body = json!({ "model": MODEL, "prompt": prompt, "max_tokens": 8, "temperature": 0 });
        server.post("/v1/completions", &body).ok()
    };
    assert_eq!(cached(&ask(&server, "Tom ran")), Some(0));
    assert_eq!(cached(&ask(&server, "A cat came")), Some(0));
    let third = ask(&server, "Mom called");
    assert!(cached(&third).unwrap() > 40, "{third}");
    let expected = ask(&plain, "Mom called");
    assert_eq!(third["choices"][0]["text"], expected["choices"][0]["text"]);
    assert!(server.metric("mlx_llamba_cache_bytes") > 0.0);
    assert_eq!(plain.metric("mlx_llamba_cache_bytes"), 0.0);
}

fn create(server: &Server) -> String {
    let id = server.post("/v1/sessions", &json!({ "model": MODEL })).ok()["id"].clone();
    format!("/v1/sessions/{}", id.as_str().unwrap())
}

/// Templates and tokenizers of long messages work beside the model.
#[test]
fn a_long_message_keeps_nobody_waiting() {
    let server = Server::start(|options| options.engine.prompt_tokens = 100_000);
    let chat = format!("{}/chat/completions", create(&server));
    let long = say(&"a cat and a dog ".repeat(60_000));
    std::thread::scope(|scope| {
        // It may itself meet the session while the empty request below has it.
        let refused = scope.spawn(|| {
            loop {
                let answer = server.post(&chat, &long);
                if answer.status != 409 {
                    return answer;
                }
            }
        });
        // Until its messages are tokens, the session is taken, and others get their answers.
        let nothing = json!({ "model": MODEL, "messages": [] });
        while server.post(&chat, &nothing).status != 409 {
            assert!(!refused.is_finished());
        }
        for _ in 0..5 {
            server.post("/v1/chat/completions", &say("Lily")).ok();
        }
        assert!(!refused.is_finished());
        let refused = refused.join().unwrap();
        refused.is_error(400, Some("messages"), "more than 100000");
    });
    // It is free again, and as it was.
    let first = server.post(&chat, &say("Once upon a time")).ok();
    assert_eq!(first["usage"]["prompt_tokens_details"]["cached_tokens"], 0);
}

/// However its request ends, a session is free afterwards.
#[test]
fn a_turn_whose_client_goes_away_gives_the_session_back() {
    let server = Server::start(|options| {
        options.engine.rows = Some(1);
        options.engine.queue = 1;
    });
    let chat = format!("{}/chat/completions", create(&server));
    let other = format!("{}/chat/completions", create(&server));
    let mut first = endless("Lily", 4000);
    first["stream"] = true.into();
    let mut running = server.stream("/v1/completions", &first);
    running.next().unwrap();
    let waiting = server.stream(&chat, &say("Once"));
    server.wait_for("mlx_llamba_waiting", 1.0);
    server.post(&chat, &say("Wait")).is_error(409, None, "being generated");
    // There is no room in the queue for another one.
    for _ in 0..2 {
        server.post(&other, &say("Once")).is_error(429, None, "1 of at most 1");
    }
    drop(waiting);
    server.wait_for("mlx_llamba_waiting", 0.0);
    drop(running);
    server.wait_for("mlx_llamba_rows", 0.0);
    for path in [chat, other] {
        server.post(&path, &say("Once upon a time")).ok();
    }
}

#[test]
fn sessions_have_room_and_make_room() {
    let server = Server::start(|options| options.engine.session_memory = 16 << 20);
    let one = server.get(&create(&server)).ok()["bytes"].as_u64().unwrap();
    let most = (16 << 20) / (17 * one);
    for _ in 1..most {
        create(&server);
    }
    let full = server.post("/v1/sessions", &json!({ "model": MODEL }));
    full.is_error(429, None, &format!("the limit of {most} session"));
    let after: u64 = full.head.split("retry-after: ").nth(1).unwrap()[..4].trim().parse().unwrap();
    assert!((3000..=3601).contains(&after), "{full:?}");

    // Those that nobody asks for make room, the oldest first.
    let server = Server::start(|options| {
        options.engine.sessions = 2;
        options.engine.session_idle = Duration::ZERO;
    });
    let (first, second) = (create(&server), create(&server));
    server.get(&first).ok();
    let third = create(&server);
    server.get(&second).is_error(404, Some("id"), "no session");
    // One that is being asked stays.
    let mut long = say("Once upon a time");
    long["max_tokens"] = 4000.into();
    long["logit_bias"] = json!({ "0": -100, "1": -100 });
    long["stream"] = true.into();
    let mut events = server.stream(&format!("{first}/chat/completions"), &long);
    events.next().unwrap();
    server.get(&third).ok();
    let fourth = create(&server);
    server.get(&third).is_error(404, Some("id"), "no session");
    for path in [first, fourth] {
        server.get(&path).ok();
    }
}

/// An API key cannot find out another key's prompts or use its sessions.
#[test]
fn keys_share_nothing() {
    let cached = |server: &Server, key: &str, more: Value| {
        let prompt = "Lily and Tom went to the park with their red ball. ".repeat(4);
        let mut body = json!({ "prompt": prompt, "max_tokens": 1 });
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let usage = server.send(with_key(key, "POST", "/v1/completions", &body)).ok();
        usage["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap()
    };
    let start = |share: bool| {
        Server::start(|options| {
            options.api_keys = vec!["first".to_owned(), "second".to_owned()];
            options.share_cache = share;
        })
    };
    let server = start(false);
    let plain = json!({});
    assert_eq!(cached(&server, "first", plain.clone()), 0);
    assert!(cached(&server, "first", plain.clone()) > 40);
    assert_eq!(cached(&server, "first", json!({ "cache_salt": "x" })), 0);
    assert_eq!(cached(&server, "second", plain.clone()), 0);
    assert!(cached(&server, "second", plain.clone()) > 40);

    // A session is its key's; to others there is none.
    let made = server.send(with_key("first", "POST", "/v1/sessions", &plain)).ok();
    let path = format!("/v1/sessions/{}", made["id"].as_str().unwrap());
    let chat = format!("{path}/chat/completions");
    let undo = format!("{path}/undo");
    for (method, path) in [("GET", &path), ("DELETE", &path), ("POST", &undo), ("POST", &chat)] {
        let refused = server.send(with_key("second", method, path, &say("Hi")));
        refused.is_error(404, Some("id"), "no session");
    }
    server.send(with_key("first", "POST", &chat, &say("Hi"))).ok();
    server.send(with_key("first", "GET", &path, &plain)).ok();

    // If the operator lets keys share the cache, counts are hidden.
    let server = start(true);
    for _ in 0..3 {
        assert_eq!(cached(&server, "first", plain.clone()), 0);
    }
    let before = metric(&server, "mlx_llamba_cached_tokens_total");
    assert_eq!(cached(&server, "second", plain.clone()), 0);
    assert!(metric(&server, "mlx_llamba_cached_tokens_total") > before + 40.0);
}

fn with_key(key: &str, method: &str, path: &str, body: &Value) -> String {
    let request = common::post(path, &body.to_string()).replacen("POST", method, 1);
    request.replacen("\r\n", &format!("\r\nauthorization: Bearer {key}\r\n"), 1)
}

fn metric(server: &Server, name: &str) -> f64 {
    let text = server.send(with_key("first", "GET", "/metrics", &json!({}))).body;
    let line = text.lines().find_map(|line| line.strip_prefix(&format!("{name} ")));
    line.unwrap().parse().unwrap()
}

#[test]
fn a_directory_keeps_beginnings_for_the_next_server() {
    let directory = tempfile::tempdir().unwrap();
    let place = directory.path().join("states");
    let start = |memory| {
        Server::start(|options| {
            options.engine.cache_directory = Some(place.clone());
            options.engine.cache_memory = memory;
        })
    };
    let mut server = start(1 << 30);
    let (_, next) = two_turns(&server);
    let expected = server.post("/v1/chat/completions", &next).ok();
    server.stop();
    server.ended();
    let server = start(1 << 30);
    assert!(server.metric("mlx_llamba_cache_disk_bytes") > 0.0);
    let again = server.post("/v1/chat/completions", &next).ok();
    assert_eq!((text(&again), cached(&again)), (text(&expected), cached(&expected)));
    assert!(cached(&again).unwrap() > 16);
    drop(server);

    // Room for one state in memory, and none on the disk: nobody notices.
    let one = 500 << 10;
    let server = start(one);
    std::fs::remove_dir_all(&place).unwrap();
    for word in ["red", "green", "blue", "red"] {
        let long = say(&format!("{word} {}", "and a cat and a dog ".repeat(5)));
        server.post("/v1/chat/completions", &long).ok();
    }
    assert!(server.metric("mlx_llamba_cache_bytes") <= one as f64);
}

/// Texts of sessions count, not only their states.
#[test]
fn long_sessions_leave_less_room() {
    let count = |text: &str, memory: usize| {
        let server = Server::start(|options| options.engine.session_memory = memory);
        let messages = json!([{ "role": "user", "content": text }]);
        let body = json!({ "model": MODEL, "messages": messages });
        (0..100)
            .map(|_| server.post("/v1/sessions", &body).status)
            .take_while(|s| *s == 200)
            .count()
    };
    let text = "Lily saw a big red ball. ".repeat(80_000);
    let (short, long) = (count("Lily", 80 << 20), count(&text, 80 << 20));
    assert!((1..100).contains(&long) && long < short, "{short} short, {long} long");
    assert_eq!(count(&text, 1 << 20), 0);
}
