//! Options and limits of the server.

use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::time::Duration;

use derive_setters::Setters;

use crate::error::{Error, Result};

/// Options of the server.
#[non_exhaustive]
#[derive(Debug, Clone, Setters)]
pub struct Options {
    /// The address to listen on; port 0 takes a free one.
    pub bind: SocketAddr,
    /// The model's name in answers.
    #[setters(into)]
    pub model: String,
    /// Other names of the model.
    pub aliases: Vec<String>,
    /// Refuse unknown parameters and other models' names, instead of ignoring them.
    pub strict: bool,
    /// API keys; a request needs one of them. Empty: no key is needed.
    pub api_keys: Vec<String>,
    /// Origins whose pages may call the server from a browser; `*` is any. Empty: none.
    pub cors: Vec<String>,
    /// Write prompts and replies to the log.
    pub log_prompts: bool,
    /// Share cached prompts between API keys. The number of cached tokens is then hidden.
    pub share_cache: bool,
    /// Bounds of memory, queue and requests.
    pub engine: mlx_llamba_engine::Options,
    /// Bounds of HTTP requests and connections.
    pub limits: Limits,
}

/// Bounds of HTTP requests and connections.
#[non_exhaustive]
#[derive(Debug, Clone, Setters)]
pub struct Limits {
    /// Bytes of a request's body.
    pub body: usize,
    /// Tokens that a request may generate, and that a chat request generates by default.
    pub max_tokens: usize,
    /// Continuations that a request may ask for: prompts times `n`.
    pub choices: usize,
    /// Bytes of memory for requests on their way from the connection to the model: bodies, their
    /// JSON, prompts and tokens. They are estimated, and more are refused.
    pub memory: usize,
    /// Open connections.
    pub connections: usize,
    /// Open connections of one address.
    pub connections_per_address: usize,
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
    /// All names of the model.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        std::iter::once(&self.model).chain(&self.aliases).map(String::as_str)
    }

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
            ("connections per address", limits.connections_per_address),
            ("memory", limits.memory),
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
            aliases: Vec::new(),
            strict: false,
            api_keys: Vec::new(),
            cors: Vec::new(),
            log_prompts: false,
            share_cache: false,
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
            memory: 1 << 30,
            connections: 1024,
            connections_per_address: 768,
            head_timeout: seconds(10),
            body_timeout: seconds(30),
            write_timeout: seconds(60),
            keep_alive: seconds(10),
            grace: seconds(30),
        }
    }
}

/// Reads an address to listen on: a host name or address, a port, or both. The rest is as in the
/// [default](Options::default).
///
/// # Errors
/// The reason why there is no such address.
pub fn parse_address(text: &str) -> Result<SocketAddr, String> {
    let default = Options::default().bind;
    if let Ok(ip) = text.trim_matches(['[', ']']).parse() {
        return Ok(SocketAddr::new(ip, default.port()));
    }
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) => (host, Some(port)),
        None if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) => ("", Some(text)),
        None => (text, None),
    };
    let expected =
        || format!("{text:?}: expected HOST:PORT, HOST or PORT, with a port up to 65535");
    let port = match port {
        Some(port) if port.bytes().all(|b| b.is_ascii_digit()) => {
            port.parse().map_err(|_| expected())?
        }
        Some(_) => return Err(expected()),
        None => default.port(),
    };
    let host = host.trim_matches(['[', ']']);
    if text.is_empty() || host.contains(':') && host.parse::<IpAddr>().is_err() {
        return Err(expected());
    }
    if host.is_empty() {
        return Ok(SocketAddr::new(default.ip(), port));
    }
    let found = (host, port).to_socket_addrs().map_err(|error| format!("{host:?}: {error}"))?;
    // Of a name with addresses of both kinds, clients find the older one at least.
    let found: Vec<SocketAddr> = found.collect();
    let first = found.iter().find(|address| address.is_ipv4()).or(found.first());
    first.copied().ok_or_else(|| format!("{host:?} has no address"))
}

#[cfg(test)]
mod tests {
    use super::parse_address;

    #[test]
    fn addresses_have_a_host_a_port_or_both() {
        for (text, expected) in [
            ("localhost:8080", "127.0.0.1:8080"),
            ("127.0.0.1", "127.0.0.1:8080"),
            (":80", "127.0.0.1:80"),
            ("9000", "127.0.0.1:9000"),
            ("0.0.0.0:0", "0.0.0.0:0"),
            ("[::1]:81", "[::1]:81"),
            ("::1", "[::1]:8080"),
            ("[::]", "[::]:8080"),
        ] {
            let found = parse_address(text).map(|address| address.to_string());
            assert_eq!(found.as_deref(), Ok(expected), "{text}");
        }
        for text in ["", "localhost:", "localhost:70000", "localhost:http", "1:2:3"] {
            assert!(parse_address(text).is_err(), "{text}");
        }
    }
}
