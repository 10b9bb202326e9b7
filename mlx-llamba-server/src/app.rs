//! The state of the server, and its clients.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use mlx_llamba::constraint::{Constraint, Grammar};
use mlx_llamba_engine::Engine;
use serde_json::{Map, Value};

use crate::api::constraints::Constraints;
use crate::http::budget::{Budget, Charge};
use crate::kept::Kept;
use crate::metrics::Metrics;
use crate::options::Options;
use crate::problem::Problem;

/// The state that endpoints share.
pub(crate) struct App {
    pub(crate) engine: Engine,
    pub(crate) options: Options,
    pub(crate) metrics: Metrics,
    pub(crate) budget: Budget,
    /// Conversations that later requests continue.
    pub(crate) responses: Kept,
    constraints: Constraints,
    /// The published description; bodies are checked against its schemas.
    pub(crate) openapi: Value,
    /// The server's start, in seconds since 1970.
    pub(crate) started: u64,
    /// Makes ids that nobody can guess.
    secret: RandomState,
    next: AtomicU64,
}

/// The client of a request: an API key or, without keys, an address.
#[derive(Clone)]
pub(crate) struct Client {
    /// The engine as the client sees it: sessions and cached prompts belong to an API key.
    pub(crate) engine: Engine,
    /// The name in the log, and in the queue, where clients take turns.
    pub(crate) name: String,
    /// The memory of the request.
    pub(crate) memory: Arc<Charge>,
}

impl App {
    pub(crate) fn new(engine: Engine, options: Options, openapi: Value) -> Self {
        let metrics = Metrics::new(engine.metrics());
        let budget = Budget::new(options.limits.memory / 2, metrics.request_memory.clone());
        let started = now();
        let (constraints, next) = (Constraints::new(), AtomicU64::new(1));
        let responses = Kept::default();
        Self {
            engine,
            options,
            metrics,
            budget,
            responses,
            constraints,
            openapi,
            started,
            secret: RandomState::new(),
            next,
        }
    }

    /// The schemas by name.
    pub(crate) fn schemas(&self) -> Option<&Map<String, Value>> {
        self.openapi["components"]["schemas"].as_object()
    }

    /// Returns an id that no other answer has, and that nobody can guess: whoever knows the id of a
    /// response may continue it where there are no keys.
    pub(crate) fn id(&self, kind: &str) -> String {
        let n = self.next.fetch_add(1, Ordering::Relaxed);
        let [high, low] = [0, 1].map(|part: u8| self.secret.hash_one((n, part)));
        format!("{kind}-{high:016x}{low:016x}")
    }

    /// Returns an id for a call of a tool, hardly ever that of another. Templates of Mistral take no
    /// other length.
    pub(crate) fn call_id(&self) -> String {
        let n = self.next.fetch_add(1, Ordering::Relaxed);
        let mut mixed = self.secret.hash_one(n);
        let digits = b"0123456789abcdefghijklmnopqrstuvwxyz";
        let digit = |_| {
            let digit = digits[(mixed % 36) as usize];
            mixed /= 36;
            char::from(digit)
        };
        (0..9).map(digit).collect()
    }

    /// Compiles a grammar and the parameter that asks for it, within the memory of its client's request.
    ///
    /// # Errors
    /// 400 if it cannot be used; 413 and 503 if there is no memory for it.
    pub(crate) async fn constraint(
        &self,
        grammar: Option<(Grammar, &'static str)>,
        client: &Client,
    ) -> Result<Option<Constraint>, Problem> {
        let Some((grammar, name)) = grammar else { return Ok(None) };
        let owner = if self.options.share_cache { "" } else { self.owner(client) };
        let tokenizer = self.engine.tokenizer();
        let made = self.constraints.compile(tokenizer, grammar, name, owner, &client.memory).await;
        made.map(Some)
    }

    /// The client whose data nobody else may use or notice: an API key, or all clients without keys.
    pub(crate) fn owner<'a>(&self, client: &'a Client) -> &'a str {
        if self.options.api_keys.is_empty() { "" } else { &client.name }
    }

    /// Refuses the names of other models.
    ///
    /// # Errors
    /// 404
    pub(crate) fn check_model(&self, name: &str) -> Result<(), Problem> {
        if self.options.names().any(|own| own == name) {
            return Ok(());
        }
        let shown: String = name.chars().take(100).collect();
        let message = format!("no model {shown:?} here; this server has {:?}", self.options.model);
        Err(Problem::not_found(message, "model_not_found").param("model"))
    }

    /// Logs a text, if the options say so.
    pub(crate) fn log_text(&self, what: &str, id: &str, text: impl FnOnce() -> String) {
        if self.options.log_prompts {
            log::info!("{what} id={id} text={:?}", text());
        }
    }
}

/// Seconds since 1970.
pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs())
}
