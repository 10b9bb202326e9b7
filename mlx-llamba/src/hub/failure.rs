//! The ways in which a request to the hub fails.

use std::path::Path;
use std::time::Duration;

use crate::Error;

/// A request that failed.
#[derive(Debug)]
pub(super) enum Failure {
    /// No connection, or it broke.
    Unreachable(String),
    /// The hub refused.
    Status { status: u16, code: String, message: String },
    /// The hub's answer makes no sense.
    Nonsense(String),
    /// A file arrived with other bytes than announced.
    Damaged(String),
    /// An error of this machine, not of the hub.
    Local(Error),
}

impl Failure {
    pub(super) fn local(action: &'static str, path: &Path, source: std::io::Error) -> Self {
        Self::Local(Error::Io { action, path: path.to_owned(), source })
    }

    /// True if another attempt may succeed.
    pub(super) fn is_temporary(&self) -> bool {
        match self {
            Self::Unreachable(_) => true,
            Self::Status { status, .. } => *status == 408 || *status == 429 || *status >= 500,
            _ => false,
        }
    }
}

pub(super) fn hub(repo: &str, reason: String) -> Error {
    Error::Hub { repo: repo.to_owned(), reason }
}

/// Sleeps for 0.4 s after the first failure, twice as long after each further one, up to 6.4 s.
pub(super) fn pause(failures: u32) {
    std::thread::sleep(Duration::from_millis(200 << failures.min(5)));
}
