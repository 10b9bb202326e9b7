//! Options of the hub and its cache.

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;

use derive_setters::Setters;

use super::remote::is_loopback;
use crate::progress::Progress;
use crate::{Error, Result};

/// An [`OnProgress`](crate::progress::OnProgress) that clones of the options share. The item is the
/// file's name in the repository; the bytes done include those of an earlier, interrupted download.
pub type OnDownload = Arc<dyn Fn(Progress<'_>) -> ControlFlow<()> + Send + Sync>;

/// Options of downloads from a hub. [`HubOptions::from_env`] reads the variables that all hub tools
/// read; [`HubOptions::new`] reads none.
#[non_exhaustive]
#[derive(Clone, Setters)]
#[setters(strip_option)]
pub struct HubOptions {
    /// Branch, tag or commit; `None` for `main`. A revision in the name itself takes precedence.
    #[setters(into)]
    pub revision: Option<String>,
    /// Directory of the cache; created if it does not exist.
    #[setters(into)]
    pub cache: PathBuf,
    /// Access token, sent to the hub only.
    #[setters(into)]
    pub token: Option<String>,
    /// Address of the hub, without a slash at the end; `None` for the public one.
    #[setters(into)]
    pub endpoint: Option<String>,
    /// Use only the cache.
    pub offline: bool,
    /// Certificates (PEM) to trust instead of the built-in ones.
    #[setters(into)]
    pub certificates: Option<PathBuf>,
    /// The number of times in a row that a transfer is resumed after it broke off without a byte.
    pub retries: u32,
    /// Called when a file begins and whenever more of it has arrived. A download that it stops is
    /// continued by the next one.
    #[setters(skip)]
    pub progress: Option<OnDownload>,
}

impl std::fmt::Debug for HubOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HubOptions")
            .field("revision", &self.revision)
            .field("cache", &self.cache)
            .field("token", &self.token.as_ref().map(|_| "(hidden)"))
            .field("endpoint", &self.endpoint)
            .field("offline", &self.offline)
            .field("certificates", &self.certificates)
            .field("retries", &self.retries)
            .finish_non_exhaustive()
    }
}

impl HubOptions {
    /// Options for the public hub, without a token, with this directory as the cache.
    #[must_use]
    pub fn new(cache: impl Into<PathBuf>) -> Self {
        Self {
            revision: None,
            cache: cache.into(),
            token: None,
            endpoint: None,
            offline: false,
            certificates: None,
            retries: 5,
            progress: None,
        }
    }

    /// Sets the callback for the progress of downloads.
    #[must_use]
    pub fn progress(
        mut self,
        on_progress: impl Fn(Progress<'_>) -> ControlFlow<()> + Send + Sync + 'static,
    ) -> Self {
        self.progress = Some(Arc::new(on_progress));
        self
    }

    /// Reads the options from the environment.
    ///
    /// | variable | meaning |
    /// |---|---|
    /// | `HF_HOME` | directory of the cache (`hub` in it) and of the token (`token` in it); else `huggingface` in `XDG_CACHE_HOME` or in `~/.cache` |
    /// | `HF_HUB_CACHE` | directory of the cache |
    /// | `HF_TOKEN` | the token; else the content of the file `HF_TOKEN_PATH`, or of the one above |
    /// | `HF_ENDPOINT` | address of the hub |
    /// | `HF_HUB_OFFLINE` | 1, true, yes or on: use only the cache |
    /// | `HF_HUB_DISABLE_IMPLICIT_TOKEN` | 1, true, yes or on: send no token |
    /// | `SSL_CERT_FILE` | certificates to trust |
    ///
    /// Directories can begin with `~` and contain `$NAME`. The old names `HUGGINGFACE_HUB_CACHE` and
    /// `HUGGING_FACE_HUB_TOKEN` are read too. `HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY` and
    /// `NO_PROXY` always apply.
    ///
    /// # Errors
    /// [`Error::Argument`] if no variable names the directory of the cache.
    pub fn from_env() -> Result<Self> {
        Self::from_variables(|name| std::env::var(name).ok())
    }

    fn from_variables(variable: impl Fn(&str) -> Option<String>) -> Result<Self> {
        let set = |name: &str| variable(name).filter(|value| !value.trim().is_empty());
        let directory = |name: &str| set(name).map(|path| expand(&path, &variable));
        let cache_home =
            directory("XDG_CACHE_HOME").or_else(|| Some(directory("HOME")?.join(".cache")));
        let home = directory("HF_HOME").or_else(|| Some(cache_home?.join("huggingface")));
        let cache = directory("HF_HUB_CACHE").or_else(|| directory("HUGGINGFACE_HUB_CACHE"));
        let cache = cache.or_else(|| Some(home.as_ref()?.join("hub")));
        let token_file = directory("HF_TOKEN_PATH").or_else(|| Some(home?.join("token")));
        let Some(cache) = cache else {
            return Err(Error::Argument {
                name: "HF_HOME",
                value: "not set, and neither is HOME".to_owned(),
                expected: "a directory for the hub's cache".to_owned(),
            });
        };
        let token_from_file = || {
            let token = std::fs::read_to_string(token_file?).ok()?;
            Some(token.trim().to_owned()).filter(|token| !token.is_empty())
        };
        let flag = |name: &str| {
            set(name).is_some_and(|value| {
                ["1", "true", "yes", "on"].contains(&value.trim().to_ascii_lowercase().as_str())
            })
        };
        let token = || {
            let named = set("HF_TOKEN").or_else(|| set("HUGGING_FACE_HUB_TOKEN"));
            named.map(|token| token.trim().to_owned()).or_else(token_from_file)
        };
        Ok(Self {
            token: if flag("HF_HUB_DISABLE_IMPLICIT_TOKEN") { None } else { token() },
            endpoint: set("HF_ENDPOINT").map(|endpoint| with_scheme(endpoint.trim())),
            offline: flag("HF_HUB_OFFLINE"),
            certificates: directory("SSL_CERT_FILE"),
            ..Self::new(cache)
        })
    }
}

/// A path with `~` and `$NAME` or `${NAME}` replaced, as Python's hub library does. A variable that
/// is not set stays as it is.
fn expand(path: &str, variable: &impl Fn(&str) -> Option<String>) -> PathBuf {
    let home = variable("HOME").filter(|_| path == "~" || path.starts_with("~/"));
    let (mut out, mut rest) = match home {
        Some(home) => (home, &path[1..]),
        None => (String::new(), path),
    };
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        let name_end = |text: &str| {
            let other = |c: char| !c.is_ascii_alphanumeric() && c != '_';
            text.find(other).unwrap_or(text.len())
        };
        let (name, end) = match after.strip_prefix('{').and_then(|inner| inner.split_once('}')) {
            Some((name, _)) => (name, at + 1 + name.len() + 2),
            None => (&after[..name_end(after)], at + 1 + name_end(after)),
        };
        match variable(name) {
            Some(value) => out.push_str(&value),
            None => out.push_str(&rest[at..end]),
        }
        rest = &rest[end..];
    }
    PathBuf::from(out + rest)
}

/// An address with a scheme and without a slash at its end.
fn with_scheme(endpoint: &str) -> String {
    let endpoint = endpoint.trim_end_matches('/');
    if endpoint.contains("://") {
        return endpoint.to_owned();
    }
    let scheme = if is_loopback(&format!("http://{endpoint}")) { "http" } else { "https" };
    format!("{scheme}://{endpoint}")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::HubOptions;
    use std::path::Path;

    fn options(variables: &[(&str, &str)]) -> HubOptions {
        let get = |name: &str| {
            let found = variables.iter().find(|(n, _)| *n == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        HubOptions::from_variables(get).unwrap()
    }

    #[test]
    fn the_cache_is_where_the_variables_say() {
        let cache = |variables: &[(&str, &str)]| options(variables).cache;
        let (home, xdg) = (("HOME", "/home/a"), ("XDG_CACHE_HOME", "/x"));
        assert_eq!(cache(&[home]), Path::new("/home/a/.cache/huggingface/hub"));
        assert_eq!(cache(&[home, xdg]), Path::new("/x/huggingface/hub"));
        assert_eq!(cache(&[home, xdg, ("HF_HOME", "/h")]), Path::new("/h/hub"));
        let hub = ("HF_HUB_CACHE", "/c");
        assert_eq!(cache(&[home, xdg, ("HF_HOME", "/h"), hub]), Path::new("/c"));
        assert_eq!(cache(&[hub]), Path::new("/c"));
        assert_eq!(cache(&[home, ("HF_HOME", "")]), Path::new("/home/a/.cache/huggingface/hub"));
        assert!(HubOptions::from_variables(|_| None).is_err());
        let old = ("HUGGINGFACE_HUB_CACHE", "/old");
        assert_eq!(cache(&[home, old]), Path::new("/old"));
        assert_eq!(cache(&[home, old, hub]), Path::new("/c"));
        for (value, expected) in [
            ("~/hf", "/home/a/hf"),
            ("~", "/home/a"),
            ("~b/hf", "~b/hf"),
            ("$HOME/hf", "/home/a/hf"),
            ("${XDG_CACHE_HOME}y/$NONE/$", "/xy/$NONE/$"),
            ("/${HOME", "/${HOME"),
        ] {
            let found = cache(&[home, xdg, ("HF_HUB_CACHE", value)]);
            assert_eq!(found, Path::new(expected), "{value}");
        }
    }

    #[test]
    fn the_token_comes_from_the_variable_or_a_file() {
        let directory = tempfile::tempdir().unwrap();
        let home = directory.path().to_str().unwrap();
        assert_eq!(options(&[("HF_HOME", home)]).token, None);
        std::fs::write(directory.path().join("token"), " from-file\n").unwrap();
        assert_eq!(options(&[("HF_HOME", home)]).token.as_deref(), Some("from-file"));
        let both = options(&[("HF_HOME", home), ("HF_TOKEN", "from-variable\n")]);
        assert_eq!(both.token.as_deref(), Some("from-variable"));
        assert!(!format!("{both:?}").contains("from-variable"));
        let path = format!("{home}/token");
        let elsewhere = options(&[("HOME", "/nowhere"), ("HF_TOKEN_PATH", &path)]);
        assert_eq!(elsewhere.token.as_deref(), Some("from-file"));
        let old = options(&[("HOME", "/nowhere"), ("HUGGING_FACE_HUB_TOKEN", "old")]);
        assert_eq!(old.token.as_deref(), Some("old"));
        let disabled = ("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1");
        assert_eq!(options(&[("HF_HOME", home), ("HF_TOKEN", "x"), disabled]).token, None);
    }

    #[test]
    fn offline_endpoint_and_certificates() {
        let offline = |value| options(&[("HOME", "/h"), ("HF_HUB_OFFLINE", value)]).offline;
        assert!(["1", "true", "YES", "on"].into_iter().all(offline));
        assert!(!["0", "false", "no", ""].into_iter().any(offline));
        let found = options(&[
            ("HOME", "/h"),
            ("HF_ENDPOINT", "http://127.0.0.1:1/"),
            ("SSL_CERT_FILE", "/c.pem"),
        ]);
        assert_eq!(found.endpoint.as_deref(), Some("http://127.0.0.1:1"));
        assert_eq!(found.certificates.as_deref(), Some(Path::new("/c.pem")));
        for (given, expected) in [
            ("hf-mirror.com/", "https://hf-mirror.com"),
            ("localhost:8080", "http://localhost:8080"),
            ("127.0.0.1", "http://127.0.0.1"),
        ] {
            let found = options(&[("HOME", "/h"), ("HF_ENDPOINT", given)]);
            assert_eq!(found.endpoint.as_deref(), Some(expected));
        }
    }
}
