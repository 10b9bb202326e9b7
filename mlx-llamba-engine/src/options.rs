//! Bounds of an engine.

use std::path::PathBuf;
use std::time::Duration;

use derive_setters::Setters;

use crate::error::{Error, Result};

/// Bounds of an engine's memory, queue and requests.
///
/// ```
/// let options = mlx_llamba_engine::Options::default().rows(16).prefill(512);
/// ```
#[non_exhaustive]
#[derive(Debug, Clone, Setters)]
#[setters(strip_option)]
pub struct Options {
    /// Continuations computed at once, if [`state_memory`](Self::state_memory) allows. `None`: as many
    /// as it allows, up to [`MOST_ROWS`](Self::MOST_ROWS), but more than
    /// [`FIRST_ROWS`](Self::FIRST_ROWS) only while steps are short.
    pub rows: Option<usize>,
    /// Bytes for the states of the continuations computed at once.
    pub state_memory: usize,
    /// Bytes for cached states of prompts and replies, for later requests that begin with them.
    /// 0 disables the cache.
    pub cache_memory: usize,
    /// A directory for cached states that do not fit in memory and, at the end, for all of them:
    /// the next engine finds them there.
    pub cache_directory: Option<PathBuf>,
    /// Bytes of cached states in [`cache_directory`](Self::cache_directory).
    pub cache_disk: u64,
    /// Continuations that may wait; more are refused with [`Error::QueueFull`].
    pub queue: usize,
    /// Tokens of a prompt.
    pub prompt_tokens: usize,
    /// Bytes of memory for encoding texts. Texts wait for it; one that needs more, such as a single
    /// word of a megabyte, is refused with [`Error::PromptMemory`].
    pub prompt_memory: usize,
    /// Prompt chunk size, in tokens: the longest that other requests wait for a prompt. `None`: half of
    /// what is fastest for one text, 256 on CPUs and 1024 on GPUs.
    pub prefill: Option<usize>,
    /// Sessions kept, if [`session_memory`](Self::session_memory) allows.
    pub sessions: usize,
    /// Bytes for the states and texts of sessions. A session may keep 17 states: its end and 16
    /// snapshots.
    pub session_memory: usize,
    /// Time without a request after which a session may be dropped to make room for a new one.
    pub session_idle: Duration,
    /// Time from a request's arrival to its last token.
    pub request_timeout: Duration,
    /// Threads that render templates and tokenize prompts at once.
    pub threads: usize,
}

impl Options {
    /// The most continuations that are computed at once unless [`rows`](Self::rows) says otherwise.
    pub const MOST_ROWS: usize = 512;
    /// As many are computed at once however long a step takes, unless [`rows`](Self::rows) says
    /// otherwise.
    pub const FIRST_ROWS: usize = 64;

    /// Refuses values with which an engine could not work.
    ///
    /// # Errors
    /// [`Error::Option`], naming the first bad option.
    pub fn check(&self) -> Result<()> {
        let bad = |option, value: &str, expected| {
            Err(Error::Option { option, value: value.to_owned(), expected })
        };
        let numbers = [
            ("rows", self.rows.unwrap_or(1)),
            ("queue", self.queue),
            ("prompt tokens", self.prompt_tokens),
            ("prompt memory", self.prompt_memory),
            ("threads", self.threads),
        ];
        if let Some((option, _)) = numbers.into_iter().find(|(_, number)| *number == 0) {
            return bad(option, "0", "at least one");
        }
        if let Some(directory) = self.cache_directory.as_ref().filter(|_| self.cache_memory == 0) {
            let expected = "memory for the cache too: states in use are in memory";
            return bad("cache directory", &directory.to_string_lossy(), expected);
        }
        if let Some(prefill) = self.prefill.filter(|prefill| !(1..=1 << 20).contains(prefill)) {
            return bad("prefill", &prefill.to_string(), "1 to 1048576 tokens");
        }
        Ok(())
    }
}

impl Default for Options {
    fn default() -> Self {
        Self {
            rows: None,
            state_memory: 2 << 30,
            cache_memory: 1 << 30,
            cache_directory: None,
            cache_disk: 8 << 30,
            queue: 512,
            prompt_tokens: 1 << 20,
            prompt_memory: 512 << 20,
            prefill: None,
            sessions: 256,
            session_memory: 4 << 30,
            session_idle: Duration::from_secs(3600),
            request_timeout: Duration::from_secs(600),
            threads: 8,
        }
    }
}
