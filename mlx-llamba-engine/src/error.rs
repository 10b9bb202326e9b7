//! The errors of the engine, one variant per cause.

use std::sync::Arc;
use std::time::Duration;

use mlx_llamba::units;

/// Result of the engine's fallible functions.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The reason why the engine cannot start, or why it refused or ended a request.
///
/// Clones are cheap: a failed forward pass ends every request that took part in it.
#[non_exhaustive]
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// The model cannot be loaded.
    #[error(transparent)]
    Load(Arc<mlx_llamba::Error>),
    /// A model of another kind cannot be loaded.
    #[error(transparent)]
    LoadModel(Arc<dyn std::error::Error + Send + Sync>),
    /// The model is no Llamba, and such models do not have this.
    #[error("this model is a Transformer: it has no {what}")]
    Unsupported {
        /// The feature that was requested.
        what: &'static str,
    },
    /// The state memory does not hold the states of a single request.
    #[error("{given} bytes for states: one request of this model needs {needed}")]
    Memory {
        /// Bytes allowed.
        given: usize,
        /// Bytes that a batch of one row takes.
        needed: usize,
    },
    /// An option has an impossible value.
    #[error("{option} = {value:?}: expected {expected}")]
    Option {
        /// The option's name.
        option: &'static str,
        /// The value given.
        value: String,
        /// The values allowed.
        expected: &'static str,
    },
    /// The system refused a thread.
    #[error("cannot start a thread: {0}")]
    Thread(Arc<std::io::Error>),
    /// The system has no random numbers for a session's id.
    #[error("no random numbers: {0}")]
    Random(getrandom::Error),
    /// A thread of the engine panicked.
    #[error("a thread of the engine ended unexpectedly; the log says why")]
    Ended,
    /// The engine is shutting down.
    #[error("the engine is shutting down")]
    Closed,
    /// The queue has no room for the request's continuations.
    #[error("{waiting} of at most {limit} requests wait; try again later")]
    QueueFull {
        /// Continuations waiting.
        waiting: usize,
        /// [`Options::queue`](crate::Options::queue).
        limit: usize,
        /// Estimated time until there is room.
        retry_after: Duration,
    },
    /// The request's deadline has passed.
    #[error("the request {} too long", if *queued { "waited" } else { "took" })]
    TimedOut {
        /// True if the request was still in the queue.
        queued: bool,
    },
    /// The library refused the request's prompt or options.
    #[error(transparent)]
    Request(Arc<mlx_llamba::Error>),
    /// The computation failed.
    #[error(transparent)]
    Failed(Arc<mlx_llamba::Error>),
    /// The prompt is too long.
    #[error("the prompt has at least {tokens} tokens, more than {limit}")]
    PromptTooLong {
        /// Tokens of the prompt, or a lower bound of their number.
        tokens: usize,
        /// [`Options::prompt_tokens`](crate::Options::prompt_tokens).
        limit: usize,
    },
    /// A text would take too much memory to encode.
    #[error(
        "a text of {bytes} bytes takes up to {} MiB of memory to encode, more than {} MiB",
        needed.div_ceil(1 << 20), limit >> 20
    )]
    PromptMemory {
        /// Bytes of the text.
        bytes: usize,
        /// Bytes of memory needed.
        needed: usize,
        /// [`Options::prompt_memory`](crate::Options::prompt_memory).
        limit: usize,
    },
    /// A request asks for more continuations than the engine can compute at once, or for none.
    #[error("{choices} is not between 1 and {limit}")]
    Choices {
        /// Continuations asked for.
        choices: usize,
        /// [`Engine::slots`](crate::Engine::slots), or 1 in a session.
        limit: usize,
    },
    /// A conversation has no messages.
    #[error("a conversation needs at least one message")]
    NoMessages,
    /// The model has no chat template.
    #[error("this model has no chat template")]
    NoTemplate,
    /// No session has this id.
    #[error("no session {id:?}")]
    UnknownSession {
        /// The id, cut to 64 characters.
        id: String,
    },
    /// A reply of the session is being generated.
    #[error("a reply is being generated; wait for its end")]
    SessionBusy,
    /// The engine keeps as many sessions as it may, and none of them is idle for long enough.
    #[error(
        "the limit of {} is reached; delete one, or wait until one was idle for {} s",
        units::count(*count as u64, "session"), idle.as_secs()
    )]
    SessionsFull {
        /// Sessions kept.
        count: usize,
        /// [`Options::session_idle`](crate::Options::session_idle).
        idle: Duration,
        /// Time until the first of them may be dropped.
        retry_after: Duration,
    },
    /// A session takes more memory than all sessions may.
    #[error("the session takes {bytes} bytes, more than {limit}")]
    SessionTooLarge {
        /// Bytes of its text, and of the states that it may keep.
        bytes: usize,
        /// [`Options::session_memory`](crate::Options::session_memory).
        limit: usize,
    },
    /// The session has no such message, or nothing to undo.
    #[error(transparent)]
    SessionState(Arc<mlx_llamba::Error>),
    /// The bytes are not a saved session of this model.
    #[error(transparent)]
    SessionFile(Arc<mlx_llamba::Error>),
    /// A saved session was made with another chat template.
    #[error("the session was made with another chat template than this model's")]
    SessionTemplate,
}

impl From<mlx_llamba::Error> for Error {
    /// Sorts the library's errors into those that a request causes and those that it does not.
    fn from(error: mlx_llamba::Error) -> Self {
        use mlx_llamba::Error as E;
        match error {
            E::Argument { .. }
            | E::TokenOutOfRange { .. }
            | E::EmptyPrompt
            | E::Tokenizer { .. }
            | E::Template { .. }
            | E::Session { .. } => Self::Request(Arc::new(error)),
            _ => Self::Failed(Arc::new(error)),
        }
    }
}
