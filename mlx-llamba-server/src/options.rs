//! Options and limits of the server.

use std::net::SocketAddr;
use std::time::Duration;

use crate::error::{Error, Result};

/// Options of the server.
#[derive(Debug, Clone)]
pub struct Options {
    /// The address to listen on; port 0 takes a free one.
    pub bind: SocketAddr,
    /// The name that requests call the model by.
    pub model: String,
    /// API keys; a request needs one of them. Empty: no key is needed.
    pub api_keys: Vec<String>,
    /// Origins whose pages may call the server from a browser; `*` is any. Empty: none.
    pub cors: Vec<String>,
    /// Write prompts and replies to the log.
    pub log_prompts: bool,
    /// Bounds of memory, queue and requests.
    pub engine: mlx_llamba_engine::Options,
    /// Bounds of HTTP requests and connections.
    pub limits: Limits,
}

/// Bounds of HTTP requests and connections.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Bytes of a request's body.
    pub body: usize,
    /// Tokens that a request may generate, and that a chat request generates by default.
    pub max_tokens: usize,
    /// Continuations that a request may ask for: prompts times `n`.
    pub choices: usize,
    /// Open connections.
    pub connections: usize,
    /// Time for a request's head to arrive.
    pub head_timeout: Duration,
    /// Time for a request's body to arrive.
    pub body_timeout: Duration,
    /// Time for a client to accept what is sent.
    pub write_timeout: Duration,
    /// Time between two keep-alive comments of a stream without events.
    pub keep_alive: Duration,
    /// Time for running requests to end after the server was told to stop.
    pub grace: Duration,
}

impl Options {
    /// Refuses values that no request could match.
    pub(crate) fn check(&self) -> Result<()> {
        self.engine.check()?;
        let plain = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic());
        let bad = |option, value: &str, expected| {
            Err(Error::Option { option, value: value.to_owned(), expected })
        };
        if self.api_keys.iter().any(|key| !plain(key)) {
            return bad("api key", "...", "visible ASCII characters without spaces");
        }
        let limits = &self.limits;
        let numbers = [
            ("choices", limits.choices),
            ("tokens", limits.max_tokens),
            ("connections", limits.connections),
            ("body", limits.body),
        ];
        if let Some((option, _)) = numbers.into_iter().find(|(_, number)| *number == 0) {
            return bad(option, "0", "at least one");
        }
        match self.cors.iter().find(|origin| !plain(origin)) {
            Some(origin) => bad("cors", origin, "an origin such as https://example.org, or *"),
            None => Ok(()),
        }
    }
}

impl Default for Options {
    fn default() -> Self {
        Self {
            bind: SocketAddr::from(([127, 0, 0, 1], 8080)),
            model: "llamba".to_owned(),
            api_keys: Vec::new(),
            cors: Vec::new(),
            log_prompts: false,
            engine: mlx_llamba_engine::Options::default(),
            limits: Limits::default(),
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self {
            body: 8 << 20,
            max_tokens: 4096,
            choices: 128,
            connections: 1024,
            head_timeout: seconds(10),
            body_timeout: seconds(30),
            write_timeout: seconds(60),
            keep_alive: seconds(10),
            grace: seconds(30),
        }
    }
}
