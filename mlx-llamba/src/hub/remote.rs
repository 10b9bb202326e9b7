//! Requests to the hub: the contents of a repository and the addresses of its files.

use std::path::PathBuf;
use std::time::Duration;

use hf_hub::api::RepoInfo;
use hf_hub::api::sync::{Api, ApiBuilder};
use hf_hub::{Cache, Repo, RepoType};
use ureq::http::{Response, Uri};
use ureq::tls::{PemItem, RootCerts, TlsConfig, parse_pem};
use ureq::{Agent, Body};

use super::HubOptions;
use super::failure::{Failure, hub, pause};
use crate::{Error, Result};

const CONNECT: Duration = Duration::from_secs(15);
/// The longest wait for a server to send something.
const SILENCE: Duration = Duration::from_secs(60);
const REDIRECTS: usize = 10;

/// A file of a repository at one commit.
#[derive(Debug)]
pub(super) struct RemoteFile {
    pub(super) url: String,
    pub(super) name: String,
    pub(super) etag: String,
    /// Length in bytes.
    pub(super) size: u64,
}

/// One repository on the hub.
pub(super) struct Remote {
    agent: Agent,
    pub(super) api: Api,
    pub(super) repo: Repo,
    pub(super) name: String,
    pub(super) token: Option<String>,
    pub(super) retries: u32,
}

/// The redirects to follow.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Follow {
    /// Redirects to the hub's own host, whose answer tells more about a file than the storage's.
    SameHost,
    All,
}

impl Remote {
    pub(super) fn new(name: &str, revision: &str, options: &HubOptions) -> Result<Self> {
        let mut api = ApiBuilder::from_cache(Cache::new(options.cache.clone()));
        if let Some(endpoint) = &options.endpoint {
            api = api.with_endpoint(endpoint.clone());
        }
        let api = api.build().map_err(|e| hub(name, e.to_string()))?;
        let repo = Repo::with_revision(name.to_owned(), RepoType::Model, revision.to_owned());
        let mut config = Agent::config_builder()
            .max_redirects(0)
            .http_status_as_error(false)
            .accept_encoding("identity")
            .user_agent(concat!("mlx-llamba/", env!("CARGO_PKG_VERSION")))
            .timeout_connect(Some(CONNECT))
            .timeout_recv_response(Some(SILENCE))
            .timeout_per_read(Some(SILENCE));
        if options.endpoint.as_deref().is_some_and(is_loopback) {
            config = config.proxy(None);
        }
        if let Some(path) = &options.certificates {
            let tls = TlsConfig::builder().root_certs(certificates(path)?).build();
            config = config.tls_config(tls);
        }
        let (name, token) = (name.to_owned(), options.token.clone());
        Ok(Self { agent: config.build().into(), api, repo, name, token, retries: options.retries })
    }

    /// The files of the revision and its commit.
    pub(super) fn info(&self) -> Result<RepoInfo, Failure> {
        let request = self.api.repo(self.repo.clone()).info_request();
        let url = request.uri_ref().map(Uri::to_string).unwrap_or_default();
        self.again(|| {
            let response = self.ask(false, &url, Follow::All, 0)?;
            let body = response.into_body().into_with_config().limit(64 << 20).read_to_vec();
            let body = body.map_err(|e| Failure::Unreachable(e.to_string()))?;
            serde_json::from_slice(&body)
                .map_err(|e| Failure::Nonsense(format!("{url} in a form that is not JSON: {e}")))
        })
    }

    /// The etag and the length of `file` at `commit`.
    pub(super) fn look_up(&self, commit: &str, file: &str) -> Result<RemoteFile, Failure> {
        let at = Repo::with_revision(self.name.clone(), RepoType::Model, commit.to_owned());
        let url = self.api.repo(at).url(file);
        for follow in [Follow::SameHost, Follow::All] {
            let response = self.again(|| self.ask(true, &url, follow, 0))?;
            let header = |name: &str| response.headers().get(name)?.to_str().ok();
            let etag = header("x-linked-etag").or(header("etag"));
            let length = || header("content-length").filter(|_| response.status() == 200);
            let size = header("x-linked-size").or_else(length).and_then(|s| s.parse().ok());
            if let (Some(etag), Some(size)) = (etag, size) {
                let etag = etag.trim_start_matches("W/").trim_matches('"').to_owned();
                return Ok(RemoteFile { url, name: file.to_owned(), etag, size });
            }
        }
        Err(Failure::Nonsense(format!("{url} without an etag and a length")))
    }

    /// Sends a request and follows redirects. Every status but success is a failure; with
    /// [`Follow::SameHost`], a redirect to another host is returned as the answer.
    pub(super) fn ask(
        &self,
        head: bool,
        url: &str,
        follow: Follow,
        start: u64,
    ) -> Result<Response<Body>, Failure> {
        let nonsense = || Failure::Nonsense(format!("a redirect from {url} to nowhere"));
        let hub: Uri = url.parse().map_err(|_| Failure::Nonsense(format!("the address {url}")))?;
        let mut at = hub.clone();
        for _ in 0..REDIRECTS {
            let mut request = if head { self.agent.head(&at) } else { self.agent.get(&at) };
            if let Some(token) = self.token.as_ref().filter(|_| same_host(&at, &hub)) {
                request = request.header("authorization", format!("Bearer {token}"));
            }
            if start > 0 {
                request = request.header("range", format!("bytes={start}-"));
            }
            let response = request.call().map_err(|e| Failure::Unreachable(e.to_string()))?;
            if response.status().is_redirection() {
                let next = response.headers().get("location").and_then(|to| to.to_str().ok());
                let next = next.and_then(|to| join(&at, to)).ok_or_else(nonsense)?;
                if follow == Follow::SameHost && !same_host(&next, &hub) {
                    return Ok(response);
                }
                at = next;
            } else if response.status().is_success() {
                return Ok(response);
            } else {
                let header = |name: &str| {
                    let value = response.headers().get(name).and_then(|v| v.to_str().ok());
                    value.unwrap_or_default().to_owned()
                };
                let (code, message) = (header("x-error-code"), header("x-error-message"));
                return Err(Failure::Status { status: response.status().as_u16(), code, message });
            }
        }
        Err(nonsense())
    }

    /// Repeats a request that fails temporarily.
    fn again<T>(&self, attempt: impl Fn() -> Result<T, Failure>) -> Result<T, Failure> {
        let mut failures = 0;
        loop {
            match attempt() {
                // Without a network, the error should come soon.
                Err(failure) if failure.is_temporary() && failures < self.retries.min(2) => {
                    failures += 1;
                    pause(failures);
                }
                result => return result,
            }
        }
    }

    /// The error that explains a failure and says what to do about it.
    pub(super) fn explain(&self, failure: Failure) -> Error {
        let files = self.api.repo(self.repo.clone()).url("");
        let page = files.split("/resolve/").next().unwrap_or_default();
        let reason = match failure {
            Failure::Local(error) => return error,
            Failure::Unreachable(cause) => format!(
                "the hub cannot be reached ({cause}); check the network, HTTPS_PROXY and \
                 SSL_CERT_FILE, or give a local directory. A partial download is kept and will be \
                 resumed"
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
                "this repository is gated; accept its license on {page}, create a token there and \
                 set HF_TOKEN"
            ),
            (401 | 403, "GatedRepo", Some(_)) => format!(
                "this repository is gated and the token has no access to it; accept the license \
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
            (429, ..) => {
                "the hub limits the rate of requests (status 429); try again later".to_owned()
            }
            _ if message.is_empty() => format!("the hub answered with status {status}"),
            _ => format!("the hub answered with status {status}: {message}"),
        }
    }
}

/// The address of a redirect from `at`.
fn join(at: &Uri, to: &str) -> Option<Uri> {
    if to.starts_with("http://") || to.starts_with("https://") {
        return to.parse().ok();
    }
    let path = to.strip_prefix('/').filter(|path| !path.starts_with('/'))?;
    format!("{}://{}/{path}", at.scheme_str()?, at.authority()?).parse().ok()
}

fn same_host(a: &Uri, b: &Uri) -> bool {
    (a.scheme(), a.authority()) == (b.scheme(), b.authority())
}

/// True for an address of this machine, which no proxy leads to.
pub(super) fn is_loopback(endpoint: &str) -> bool {
    let host = endpoint.parse::<Uri>().ok().and_then(|uri| uri.host().map(str::to_owned));
    host.is_some_and(|host| {
        let address = host.trim_matches(['[', ']']).parse::<std::net::IpAddr>();
        host == "localhost" || address.is_ok_and(|address| address.is_loopback())
    })
}

fn certificates(path: &PathBuf) -> Result<RootCerts> {
    let failed = |source| Error::Io { action: "read", path: path.clone(), source };
    let pem = std::fs::read(path).map_err(failed)?;
    let items = parse_pem(&pem).filter_map(|item| match item {
        Ok(PemItem::Certificate(certificate)) => Some(certificate),
        _ => None,
    });
    let certificates: Vec<_> = items.collect();
    if certificates.is_empty() {
        return Err(Error::Argument {
            name: "SSL_CERT_FILE",
            value: path.display().to_string(),
            expected: "a file with certificates in PEM".to_owned(),
        });
    }
    Ok(RootCerts::new_with_certs(&certificates))
}
