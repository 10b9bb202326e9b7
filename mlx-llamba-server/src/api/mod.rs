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

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use mlx_llamba::Reason;
use mlx_llamba_engine::Engine;

use crate::http::Metrics;
use crate::options::Options;
use crate::problem::Problem;

/// What every endpoint works with.
pub(crate) struct App {
    pub(crate) engine: Engine,
    pub(crate) options: Options,
    pub(crate) metrics: Metrics,
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
    pub(crate) fn new(engine: Engine, options: Options) -> Self {
        let metrics = Metrics::new(engine.metrics());
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

    /// Notes a text, if texts are to be noted.
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

/// OpenAI's word for the end of a text.
pub(crate) fn finish(reason: &Reason) -> &'static str {
    match reason {
        Reason::Length => "length",
        _ => "stop",
    }
}
