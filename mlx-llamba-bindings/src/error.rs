//! Errors, grouped by what a caller can do about them.

use mlx_llamba_engine::Error as E;

/// Result of the fallible functions.
pub type Result<T, E = LlambaError> = std::result::Result<T, E>;

/// An error. Its message names what was expected, what was found, and what to do.
#[derive(Debug, thiserror::Error, uniffi::Error)]
#[uniffi(flat_error)]
pub enum LlambaError {
    /// The model cannot be loaded.
    #[error("{0}")]
    Load(String),
    /// The prompt or an option is impossible, or too large.
    #[error("{0}")]
    Argument(String),
    /// The conversation does not allow this, or the file is not one of this model's.
    #[error("{0}")]
    Conversation(String),
    /// As many requests or conversations as there is room for; try again later.
    #[error("{0}")]
    Busy(String),
    /// The request took too long.
    #[error("{0}")]
    Timeout(String),
    /// The model is closed.
    #[error("the model is closed")]
    Closed,
    /// A file cannot be read or written.
    #[error("{0}")]
    File(String),
    /// The caller stopped the work.
    #[error("interrupted")]
    Interrupted,
    /// The computation failed.
    #[error("{0}")]
    Failed(String),
}

impl LlambaError {
    pub(crate) fn file(path: &str, error: impl std::fmt::Display) -> Self {
        Self::File(format!("{path}: {error}"))
    }
}

impl From<E> for LlambaError {
    fn from(error: E) -> Self {
        let message = error.to_string();
        match error {
            E::Load(_) | E::Memory { .. } | E::Thread(_) | E::Random(_) => Self::Load(message),
            E::Option { .. }
            | E::Request(_)
            | E::PromptTooLong { .. }
            | E::PromptMemory { .. }
            | E::Choices { .. }
            | E::NoMessages => Self::Argument(message),
            E::NoTemplate
            | E::UnknownSession { .. }
            | E::SessionState(_)
            | E::SessionFile(_)
            | E::SessionTemplate
            | E::SessionTooLarge { .. } => Self::Conversation(message),
            E::QueueFull { .. } | E::SessionBusy | E::SessionsFull { .. } => Self::Busy(message),
            E::TimedOut { .. } => Self::Timeout(message),
            E::Closed => Self::Closed,
            _ => Self::Failed(message),
        }
    }
}

impl From<mlx_llamba::Error> for LlambaError {
    fn from(error: mlx_llamba::Error) -> Self {
        match error {
            mlx_llamba::Error::Interrupted => Self::Interrupted,
            mlx_llamba::Error::Io { .. } | mlx_llamba::Error::OutputExists { .. } => {
                Self::File(error.to_string())
            }
            other => E::from(other).into(),
        }
    }
}
