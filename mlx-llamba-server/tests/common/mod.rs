//! A server of the embedded model in this process, and a plain HTTP client.

#![allow(dead_code, unreachable_pub, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use mlx_llamba::files::TokenizerFiles;
use mlx_llamba::{Compute, Llamba, Template, Tokenizer};
use mlx_llamba_server::{Loaded, Options, serve};
use serde_json::{Value, json};

/// The name that the tests' servers give their model.
pub const MODEL: &str = "stories";

/// The file of the tests' own templates, which no error shows to a client.
const PLACE: &str = "/srv/models/template.jinja";

/// A server that ends with this value.
pub struct Server {
    pub address: SocketAddr,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Starts one, with the options that `change` makes.
    pub fn start(change: impl FnOnce(&mut Options)) -> Self {
        Self::of(load, change)
    }

    /// Starts one of a model that was taught to chat as `template` says.
    pub fn with_template(template: &'static str, change: impl FnOnce(&mut Options)) -> Self {
        let load = || {
            let loaded = load()?;
            let template = Template::new(PLACE, template, loaded.llamba.require_tokenizer()?)?;
            Ok(Loaded { template: Some(template), ..loaded })
        };
        Self::of(load, change)
    }

    /// Starts one of a model whose `generation_config.json` is this.
    pub fn sampling(generation: &'static str) -> Self {
        let assets = concat!(env!("CARGO_MANIFEST_DIR"), "/../mlx-llamba/assets/llamba-stories");
        let load = move || {
            let files = TokenizerFiles::beside(&Path::new(assets).join("tokenizer.json"))?;
            let files = files.with("generation_config.json", generation.as_bytes());
            let tokenizer = Tokenizer::from_files(assets, &files)?;
            let llamba = Llamba::embedded().loaded_tokenizer(tokenizer);
            Loaded::new(llamba.compute(Compute::Cpu).load()?)
        };
        Self::of(load, |_| ())
    }

    fn of(
        load: impl FnOnce() -> mlx_llamba::Result<Loaded> + Send + 'static,
        change: impl FnOnce(&mut Options),
    ) -> Self {
        let mut options = Options::default().model(MODEL.to_owned());
        options.bind.set_port(0);
        change(&mut options);
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let (ready, address) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            let stopped = async {
                let _ = stopped.await;
            };
            serve(options, load, |address| ready.send(address).unwrap(), stopped).unwrap();
        });
        let address = address.recv().expect("the server starts");
        Self { address, stop: Some(stop), thread: Some(thread) }
    }

    /// Asks the server to end; it may have requests to finish.
    pub fn stop(&mut self) {
        drop(self.stop.take());
    }

    /// Waits for its end, once it was asked to.
    pub fn ended(&mut self) {
        self.thread.take().unwrap().join().expect("it ends in good order");
    }

    pub fn get(&self, path: &str) -> Answer {
        self.send(format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"))
    }

    pub fn post(&self, path: &str, body: &Value) -> Answer {
        self.send(post(path, &body.to_string()))
    }

    /// Sends a whole request and reads the whole answer.
    pub fn send(&self, request: impl AsRef<[u8]>) -> Answer {
        let mut stream = self.connect();
        // A server that does not wait for the rest has answered already.
        let _ = stream.write_all(request.as_ref());
        Answer::read(stream)
    }

    pub fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        stream
    }

    /// Asks for a stream and gives its events as they come.
    pub fn stream(&self, path: &str, body: &Value) -> Events {
        let mut stream = self.connect();
        stream.write_all(post(path, &body.to_string()).as_bytes()).unwrap();
        Events(BufReader::new(stream))
    }

    /// The value of a metric.
    pub fn metric(&self, name: &str) -> f64 {
        let text = self.get("/metrics").body;
        let line = text.lines().find(|line| line.starts_with(&format!("{name} ")));
        line.unwrap_or_else(|| panic!("{name} in {text}"))[name.len() + 1..].parse().unwrap()
    }

    /// Waits until a metric has a value.
    pub fn wait_for(&self, name: &str, value: f64) {
        let start = Instant::now();
        while self.metric(name) != value {
            let found = self.metric(name);
            assert!(start.elapsed() < Duration::from_secs(30), "{name} is {found}, not {value}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The model that the tests serve.
pub fn load() -> mlx_llamba::Result<Loaded> {
    let llamba = Llamba::embedded().compute(Compute::Cpu).load()?;
    let template = Template::of(llamba.require_tokenizer()?, None)?;
    Ok(Loaded { llamba, template: Some(template) })
}

/// A request with a body.
pub fn post(path: &str, body: &str) -> String {
    String::from_utf8(post_bytes(path, body.as_bytes())).unwrap()
}

/// A request with a body that is no text.
pub fn post_bytes(path: &str, body: &[u8]) -> Vec<u8> {
    let length = body.len();
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\
         content-type: application/json\r\ncontent-length: {length}\r\n\r\n"
    );
    [head.as_bytes(), body].concat()
}

/// A completion that goes on until it is stopped.
pub fn endless(prompt: &str, max_tokens: usize) -> Value {
    json!({
        "model": MODEL, "prompt": prompt, "max_tokens": max_tokens, "temperature": 0,
        "logit_bias": { "0": -100, "1": -100 },
    })
}

/// An answer.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: String,
}

impl Answer {
    pub fn read(mut stream: TcpStream) -> Self {
        let mut bytes = Vec::new();
        let _ = stream.read_to_end(&mut bytes);
        let text = String::from_utf8_lossy(&bytes);
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
        let status = head.get(9..12).and_then(|code| code.parse().ok());
        let status = status.unwrap_or_else(|| panic!("no status in {text:?}"));
        Self { status, head: head.to_ascii_lowercase(), body: body.to_owned() }
    }

    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }

    /// The body of a request that went well.
    pub fn ok(&self) -> Value {
        assert_eq!(self.status, 200, "{self:?}");
        self.json()
    }

    /// Asserts an error in OpenAI's shape.
    pub fn is_error(&self, status: u16, param: Option<&str>, part: &str) {
        assert_eq!(self.status, status, "{self:?}");
        let error = &self.json()["error"];
        assert_eq!(error["param"].as_str(), param, "{self:?}");
        assert!(error["message"].as_str().unwrap().contains(part), "{part:?} in {self:?}");
        assert!(error["type"].is_string() && !self.body.contains(PLACE), "{self:?}");
    }
}

/// The events of a stream.
pub struct Events(pub BufReader<TcpStream>);

impl Iterator for Events {
    type Item = String;

    /// The data of the next event; comments and whatever else stands there are passed over.
    fn next(&mut self) -> Option<String> {
        loop {
            let mut line = String::new();
            if self.0.read_line(&mut line).ok()? == 0 {
                return None;
            }
            if let Some(data) = line.trim_end().strip_prefix("data: ") {
                return Some(data.to_owned());
            }
        }
    }
}

impl Events {
    /// All that is left, as JSON; panics unless the stream is whole.
    pub fn all(self) -> Vec<Value> {
        let mut events: Vec<String> = self.collect();
        assert_eq!(events.pop().as_deref(), Some("[DONE]"), "{events:?}");
        events.iter().map(|event| serde_json::from_str(event).unwrap()).collect()
    }
}
