//! The endpoints.

pub(crate) mod chat;
pub(crate) mod completions;
pub(crate) mod fields;
pub(crate) mod messages;
pub(crate) mod models;
pub(crate) mod sampling;
pub(crate) mod sessions;
pub(crate) mod stream;
pub(crate) mod tokens;
mod unique;
pub(crate) mod usage;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use mlx_llamba::Reason;

use crate::engine::Engine;
use crate::metrics::Metrics;
use crate::options::Options;
use crate::problem::Problem;

/// What every endpoint works with.
pub(crate) struct App {
    pub(crate) engine: Engine,
    pub(crate) options: Options,
    pub(crate) metrics: Arc<Metrics>,
    /// When the server started, in seconds since 1970.
    pub(crate) started: u64,
    /// Tells this run's ids from another's.
    run: u64,
    next: AtomicU64,
}

/// Whose request it is; clients take turns.
#[derive(Debug, Clone)]
pub(crate) struct Client(pub(crate) String);

impl Client {
    /// With the name that a request gives for its user.
    fn with_user(self, user: Option<String>) -> String {
        match user {
            Some(user) => {
                let user: String = user.chars().take(64).flat_map(char::escape_debug).collect();
                format!("{}/{user}", self.0)
            }
            None => self.0,
        }
    }
}

impl App {
    pub(crate) fn new(engine: Engine, options: Options, metrics: Arc<Metrics>) -> Self {
        let started = now();
        let run = started << 20 | u64::from(std::process::id());
        Self { engine, options, metrics, started, run, next: AtomicU64::new(1) }
    }

    /// A name that no other answer of this server has.
    pub(crate) fn id(&self, kind: &str) -> String {
        let n = self.next.fetch_add(1, Ordering::Relaxed);
        format!("{kind}-{:x}{n:06x}", self.run)
    }

    /// Refuses requests for other models.
    ///
    /// # Errors
    /// 404
    pub(crate) fn check_model(&self, name: &str) -> Result<(), Problem> {
        if name == self.options.model {
            return Ok(());
        }
        let shown: String = name.chars().take(100).collect();
        let message = format!("no model {shown:?} here; this server has {:?}", self.options.model);
        Err(Problem::not_found(message, "model_not_found").param("model"))
    }

    /// Refuses prompts that are too long or of no tokens.
    ///
    /// # Errors
    /// 400
    pub(crate) fn check_prompt(&self, param: &'static str, ids: &[u32]) -> Result<(), Problem> {
        let vocab = self.engine.vocab();
        if ids.is_empty() {
            return Err(Problem::parameter(param, "no tokens to continue"));
        }
        self.check_length(param, ids.len())?;
        if let Some(id) = ids.iter().find(|&&id| id as usize >= vocab) {
            let message = format!("token id {id} is outside the vocabulary of {vocab}");
            return Err(Problem::parameter(param, message));
        }
        Ok(())
    }

    /// Refuses prompts of too many tokens.
    ///
    /// # Errors
    /// 400
    pub(crate) fn check_length(&self, param: &'static str, tokens: usize) -> Result<(), Problem> {
        let limit = self.options.limits.prompt_tokens;
        if tokens <= limit {
            return Ok(());
        }
        let message = format!("{tokens} tokens, more than {limit}");
        Err(Problem::parameter(param, message).code("context_length_exceeded"))
    }

    /// When a request that arrives now has to be done.
    pub(crate) fn deadline(&self) -> Instant {
        Instant::now() + self.options.limits.request_timeout
    }

    /// Notes a text, if texts are to be noted.
    pub(crate) fn log_text(&self, what: &str, id: &str, text: impl FnOnce() -> String) {
        if self.options.log_prompts {
            log::info!("{what} id={id} text={:?}", text());
        }
    }
}

/// Runs work that takes a while beside the connections.
pub(crate) async fn aside<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Problem> + Send + 'static,
) -> Result<T, Problem> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(Problem::failure(&error)),
    }
}

/// Seconds since 1970.
pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs())
}

/// OpenAI's word for the end of a text.
pub(crate) fn finish(reason: &Reason) -> &'static str {
    match reason {
        Reason::Length => "length",
        _ => "stop",
    }
}
