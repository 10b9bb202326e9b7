//! How to serve.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::error::{Error, Result};

/// Where and for whom to serve, and what no request may exceed.
#[derive(Debug, Clone)]
pub struct Options {
    /// Address to listen on; port 0 takes a free one.
    pub bind: SocketAddr,
    /// The name that requests call the model by.
    pub model: String,
    /// Keys of which requests must have one. Empty: none is asked for.
    pub api_keys: Vec<String>,
    /// Origins whose pages may call the server from a browser; `*` is any. Empty: none.
    pub cors: Vec<String>,
    /// Write prompts and replies to the log.
    pub log_prompts: bool,
    /// Where states of prompts and replies are kept that have no room in memory, and all of them
    /// at the end, to be found again by the next server.
    pub cache_directory: Option<PathBuf>,
    /// Bounds.
    pub limits: Limits,
}

/// What no request, client or moment may exceed.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Bytes of a request's body.
    pub body: usize,
    /// Tokens of a prompt.
    pub prompt_tokens: usize,
    /// Tokens that a request may generate; those that name no number may generate as many.
    pub max_tokens: usize,
    /// Continuations that a request may ask for: prompts times `n`.
    pub choices: usize,
    /// Continuations that are computed at once, if the memory for states allows.
    pub rows: usize,
    /// Bytes for the states of what is computed at once.
    pub state_memory: usize,
    /// Bytes for states kept of prompts and replies, for requests that begin with them. 0: none.
    pub cache_memory: usize,
    /// Bytes of such states in the directory for them, if there is one.
    pub cache_disk: u64,
    /// Continuations that wait for their turn; more are refused.
    pub queue: usize,
    /// Tokens of a prompt read in one piece: what others wait for.
    pub piece: usize,
    /// Sessions kept, if the memory for them allows.
    pub sessions: usize,
    /// Bytes for the states of sessions: each needs room for that of its end and for 16 to go back
    /// to.
    pub session_memory: usize,
    /// A session that nobody has asked for so long makes room for another one.
    pub session_idle: Duration,
    /// Open connections.
    pub connections: usize,
    /// For a request's head to arrive.
    pub head_timeout: Duration,
    /// For a request's body to arrive.
    pub body_timeout: Duration,
    /// For a client to take what is sent.
    pub write_timeout: Duration,
    /// For a request, from its arrival to its last token.
    pub request_timeout: Duration,
    /// Between two signs of life in a stream.
    pub keep_alive: Duration,
    /// For running requests to end when the server is asked to.
    pub grace: Duration,
}

impl Options {
    /// Refuses what no header can say.
    pub(crate) fn check(&self) -> Result<()> {
        let plain = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic());
        let bad = |option, value: &str, expected| {
            Err(Error::Option { option, value: value.to_owned(), expected })
        };
        if self.api_keys.iter().any(|key| !plain(key)) {
            return bad("api key", "...", "visible ASCII characters without spaces");
        }
        let limits = &self.limits;
        let numbers = [
            ("rows", limits.rows),
            ("queue", limits.queue),
            ("choices", limits.choices),
            ("prompt tokens", limits.prompt_tokens),
            ("tokens", limits.max_tokens),
            ("connections", limits.connections),
            ("body", limits.body),
        ];
        if let Some((option, _)) = numbers.into_iter().find(|(_, number)| *number == 0) {
            return bad(option, "0", "at least one");
        }
        if let Some(directory) = self.cache_directory.as_ref().filter(|_| limits.cache_memory == 0)
        {
            let expected = "memory for the cache too: what is in use has to be in memory";
            return bad("cache directory", &directory.to_string_lossy(), expected);
        }
        if !(1..=1 << 20).contains(&limits.piece) {
            return bad("prefill", &limits.piece.to_string(), "1 to 1048576 tokens");
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
            cache_directory: None,
            limits: Limits::default(),
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self {
            body: 8 << 20,
            prompt_tokens: 1 << 20,
            max_tokens: 4096,
            choices: 128,
            rows: 64,
            state_memory: 2 << 30,
            cache_memory: 1 << 30,
            cache_disk: 8 << 30,
            queue: 512,
            piece: 256,
            sessions: 256,
            session_memory: 4 << 30,
            session_idle: seconds(3600),
            connections: 1024,
            head_timeout: seconds(10),
            body_timeout: seconds(30),
            write_timeout: seconds(60),
            request_timeout: seconds(600),
            keep_alive: seconds(10),
            grace: seconds(30),
        }
    }
}
