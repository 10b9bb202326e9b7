//! Why a download failed, and what to tell people about it.

use std::path::Path;
use std::time::Duration;

use super::remote::Remote;
use crate::Error;

/// Why something did not arrive.
#[derive(Debug)]
pub(super) enum Failure {
    /// No connection, or it broke.
    Unreachable(String),
    /// The hub refused.
    Status { status: u16, code: String, message: String },
    /// The hub answered something that cannot be.
    Nonsense(String),
    /// A file arrived, but not the right bytes.
    Damaged(String),
    /// This machine's fault.
    Local(Error),
}

impl Failure {
    pub(super) fn local(action: &'static str, path: &Path, source: std::io::Error) -> Self {
        Self::Local(Error::Io { action, path: path.to_owned(), source })
    }

    /// Whether the next attempt may do better.
    pub(super) fn passing(&self) -> bool {
        match self {
            Self::Unreachable(_) => true,
            Self::Status { status, .. } => *status == 408 || *status == 429 || *status >= 500,
            _ => false,
        }
    }
}

impl Remote {
    /// The failure as the error that a person reads.
    pub(super) fn explain(&self, failure: Failure) -> Error {
        let files = self.api.repo(self.repo.clone()).url("");
        let page = files.split("/resolve/").next().unwrap_or_default();
        let reason = match failure {
            Failure::Local(error) => return error,
            Failure::Unreachable(cause) => format!(
                "the hub cannot be reached ({cause}); check the network, HTTPS_PROXY and \
                 SSL_CERT_FILE, or give a local directory. What was downloaded is kept and the next \
                 attempt goes on"
            ),
            Failure::Nonsense(what) => format!("the hub answered with {what}"),
            Failure::Damaged(what) => format!("{what}; it was removed, try again"),
            Failure::Status { status, code, message } => {
                self.explain_status(status, &code, &message, page)
            }
        };
        hub(&self.name, reason)
    }

    fn explain_status(&self, status: u16, code: &str, message: &str, page: &str) -> String {
        match (status, code, &self.token) {
            (401 | 403, "GatedRepo", None) => format!(
                "this repository is gated; accept its licence on {page}, make a token there and \
                 set HF_TOKEN"
            ),
            (401 | 403, "GatedRepo", Some(_)) => format!(
                "this repository is gated and the token has no access to it; accept the licence \
                 on {page} with the token's account, and let the token read gated repositories"
            ),
            (404, "RevisionNotFound", _) => {
                format!("there is no revision {}; see {page}", self.repo.revision())
            }
            (401 | 403 | 404, _, None) => format!(
                "there is no such repository at {page}, or it is private; check the name, and set \
                 HF_TOKEN if it is private (status {status})"
            ),
            (401, _, Some(_)) => format!("{page} refused the token; check HF_TOKEN"),
            (403 | 404, _, Some(_)) => format!(
                "there is no such repository at {page}, or the token has no access to it \
                 (status {status})"
            ),
            (429, ..) => "the hub asks to slow down (status 429); try again later".to_owned(),
            _ if message.is_empty() => format!("the hub answered with status {status}"),
            _ => format!("the hub answered with status {status}: {message}"),
        }
    }
}

pub(super) fn hub(repo: &str, reason: String) -> Error {
    Error::Hub { repo: repo.to_owned(), reason }
}

/// Waits longer after each failure: 0.4 s, 0.8 s, up to 6.4 s.
pub(super) fn pause(failures: u32) {
    std::thread::sleep(Duration::from_millis(200 << failures.min(5)));
}
