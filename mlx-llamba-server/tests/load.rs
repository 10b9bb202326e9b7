//! 200 streams at once, of which many are left in the middle.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use common::{Server, endless};
use serde_json::Value;

const STREAMS: usize = 200;

#[test]
fn two_hundred_streams_with_cancels() {
    let server = Arc::new(Server::start(|options| options.engine.rows = Some(48)));
    let start = Instant::now();
    let texts: Arc<Mutex<HashMap<usize, Vec<String>>>> = Arc::default();
    let threads: Vec<_> = (0..STREAMS)
        .map(|i| {
            let (server, texts) = (server.clone(), texts.clone());
            std::thread::spawn(move || {
                // Five prompts of different lengths; texts of one prompt must be one text.
                let prompt = "Lily and Tom went to the park. ".repeat(1 + 3 * (i % 5));
                let mut body = endless(&prompt, 40);
                body["stream"] = true.into();
                body["user"] = format!("user {}", i % 7).into();
                let leave = (i * 7919) % 3 == 0;
                let after = (i * 31) % 20;
                let mut text = String::new();
                let mut events = server.stream("/v1/completions", &body);
                for n in 0.. {
                    if leave && n == after {
                        return false;
                    }
                    let event = events.next().expect("the stream is whole");
                    if event == "[DONE]" {
                        break;
                    }
                    let event: Value = serde_json::from_str(&event).unwrap();
                    assert!(event["error"].is_null(), "{event}");
                    text.push_str(event["choices"][0]["text"].as_str().unwrap());
                }
                texts.lock().unwrap().entry(i % 5).or_default().push(text);
                true
            })
        })
        .collect();
    let whole = threads.into_iter().map(|t| t.join().unwrap()).filter(|whole| *whole).count();
    let texts = texts.lock().unwrap();
    assert_eq!(texts.values().map(Vec::len).sum::<usize>(), whole);
    assert!(whole > 100 && whole < STREAMS, "{whole}");
    for (prompt, texts) in texts.iter() {
        assert!(texts.iter().all(|text| text == &texts[0]), "prompt {prompt}: {texts:?}");
    }
    // Nothing is left behind.
    server.wait_for("mlx_llamba_rows", 0.0);
    server.wait_for("mlx_llamba_waiting", 0.0);
    assert!(server.metric("mlx_llamba_cancelled_total") > 30.0);
    assert_eq!(server.get("/health").ok()["status"], "ok");
    assert!(start.elapsed() < Duration::from_secs(60), "{:?}", start.elapsed());
}
