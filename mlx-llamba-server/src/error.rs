//! Reasons why the server cannot start or go on.

use std::net::SocketAddr;

/// Result of the server's fallible functions.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The reason why the server cannot start or go on.
#[non_exhaustive]
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The engine cannot start: the model cannot be loaded, or its states do not fit in memory.
    #[error(transparent)]
    Engine(#[from] mlx_llamba_engine::Error),
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {source}")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// The system's answer.
        source: std::io::Error,
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
    /// The system refused threads or sockets.
    #[error("cannot serve: {0}")]
    Runtime(std::io::Error),
}
