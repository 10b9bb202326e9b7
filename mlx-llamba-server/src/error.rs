//! Why a server cannot start or go on.

use std::net::SocketAddr;

/// Result of the server's fallible functions.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, before or beside any request.
#[non_exhaustive]
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The model cannot be loaded.
    #[error(transparent)]
    Model(#[from] mlx_llamba::Error),
    /// Not one state fits into the memory for states.
    #[error("{given} bytes for states: one request of this model needs {needed}")]
    Memory {
        /// The memory allowed.
        given: usize,
        /// What the smallest batch takes.
        needed: usize,
    },
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {source}")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// The system's answer.
        source: std::io::Error,
    },
    /// An option is written in a way that no header can be.
    #[error("{option} = {value:?}: expected {expected}")]
    Option {
        /// Its name.
        option: &'static str,
        /// What was given.
        value: String,
        /// What is allowed.
        expected: &'static str,
    },
    /// The system gave no thread.
    #[error("cannot start a thread: {0}")]
    Thread(std::io::Error),
    /// The system gave no signals or sockets.
    #[error("cannot serve: {0}")]
    Runtime(std::io::Error),
    /// The model thread ended while it was loading.
    #[error("the model thread ended; the log says why")]
    Ended,
}
