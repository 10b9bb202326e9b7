//! Models and tokenizers from a hub, through the cache that all hub tools share.
//!
//! The network is used only for a repository's name. The cache has the layout of the Python and
//! Rust hub libraries, through `hf-hub`; downloads are done here, so that they resume, check lengths
//! and checksums, and read certificates from a file.

mod cache;
mod failure;
mod inventory;
mod options;
mod reach;
mod remote;
mod removal;
mod transfer;

use std::path::{Path, PathBuf};

use crate::progress::Progress;
use crate::{Error, Result};
use cache::{Snapshots, Wanted};
use failure::Failure;
pub use inventory::{CachedRepo, CachedRevision, cached};
pub use options::{HubOptions, OnDownload};
pub use reach::reach;
use remote::Remote;
pub use removal::{Removal, clean_up};

/// The hub, unless `HF_ENDPOINT` names another one.
const PUBLIC: &str = "https://huggingface.co";
/// The hosts of its pages.
const PAGES: [&str; 2] = ["huggingface.co", "hf.co"];

/// Finds a model, a local path or a repository's name (`owner/name`, `owner/name@revision`), and
/// returns a local path. Of a repository, the configuration, weights and tokenizer are downloaded.
///
/// # Errors
/// [`Error::NotACheckpoint`] if `model` is neither a path that exists nor a repository's name;
/// [`Error::Hub`] and [`Error::Io`] if it cannot be downloaded.
pub fn resolve(model: &str, options: &HubOptions) -> Result<PathBuf> {
    find(model, options, Wanted::Model)
}

/// Finds a tokenizer as [`resolve`] finds a model; only the tokenizer's files are downloaded.
///
/// # Errors
/// [`Error::TokenizerMissing`] if `tokenizer` is neither a path that exists nor a repository's
/// name; those of [`resolve`].
pub fn resolve_tokenizer(tokenizer: &str, options: &HubOptions) -> Result<PathBuf> {
    find(tokenizer, options, Wanted::Tokenizer)
}

fn find(name: &str, options: &HubOptions, wanted: Wanted) -> Result<PathBuf> {
    let path = Path::new(name);
    if path.exists() {
        return Ok(path.to_owned());
    }
    let found = repository(name).filter(|_| !looks_local(path));
    let Some((repo, revision)) = found else {
        let reason = "no such file or directory, and not the name of a repository, which is \
                      owner/name or owner/name@revision"
            .to_owned();
        return Err(match wanted {
            Wanted::Model => Error::NotACheckpoint { path: path.to_owned(), reason },
            Wanted::Tokenizer => Error::TokenizerMissing { model: name.to_owned(), reason },
        });
    };
    let revision = revision.or(options.revision.as_deref()).unwrap_or("main");
    if !plain(revision, "._-/+") || revision.contains("..") {
        let expected = "a branch, a tag or a commit".to_owned();
        return Err(Error::Argument { name: "revision", value: revision.to_owned(), expected });
    }
    let snapshots = Snapshots::new(&options.cache, repo, revision);
    if options.offline {
        return snapshots.complete(wanted).ok_or_else(|| Error::Hub {
            repo: repo.to_owned(),
            reason: format!(
                "revision {revision} is not in the cache {}, and offline mode allows no download; \
                 download it once without --offline and HF_HUB_OFFLINE",
                options.cache.display()
            ),
        });
    }
    let remote = Remote::new(repo, revision, options)?;
    match download(&remote, &snapshots, wanted, options) {
        Err(Failure::Unreachable(cause)) => match snapshots.complete(wanted) {
            Some(cached) => {
                log::warn!("{repo}: hub not reachable ({cause}); using the copy in the cache");
                Ok(cached)
            }
            None => Err(remote.explain(Failure::Unreachable(cause))),
        },
        result => result.map_err(|failure| remote.explain(failure)),
    }
}

/// Downloads the files that the cache lacks and returns their directory.
fn download(
    remote: &Remote,
    snapshots: &Snapshots,
    wanted: Wanted,
    options: &HubOptions,
) -> Result<PathBuf, Failure> {
    let info = remote.info()?;
    if !plain(&info.sha, "") {
        return Err(Failure::Nonsense(format!("commit {:?}", info.sha)));
    }
    let files: Vec<&str> = info.siblings.iter().map(|file| file.rfilename.as_str()).collect();
    let files = wanted.choose(&files).map_err(Failure::Nonsense)?;
    for file in files {
        let place = snapshots.place(&info.sha, file);
        if place.exists() {
            continue;
        }
        let found = remote.look_up(&info.sha, file)?;
        if !plain(&found.etag, "._-") {
            return Err(Failure::Nonsense(format!("etag {:?} of {file}", found.etag)));
        }
        let blob = snapshots.blob(&found.etag);
        let lock = cache::lock(&blob)?;
        if !blob.exists() {
            let part = blob.with_extension("part");
            let report = |bytes| match &options.progress {
                Some(on_progress) => Progress::new(file, bytes, found.size)
                    .tell(&mut |now| on_progress(now))
                    .map_err(Failure::Local),
                None => Ok(()),
            };
            remote.download(&found, &part, &report)?;
            cache::finish(&part, &blob)?;
        }
        drop(lock);
        snapshots.link(&blob, &place)?;
    }
    snapshots.remember(&info.sha);
    Ok(snapshots.directory(&info.sha))
}

/// The `owner/name` and the revision of a repository, if `name` can be one: `owner/name`,
/// `owner/name@revision`, or the address of its page.
pub fn repository(name: &str) -> Option<(&str, Option<&str>)> {
    let page = PAGES.iter().find_map(|page| {
        let path = name.strip_prefix("https://").or_else(|| name.strip_prefix("http://"));
        path.unwrap_or(name).strip_prefix(page)?.strip_prefix('/')
    });
    let (repo, revision) = match page {
        Some(page) => of_page(page)?,
        None => match name.split_once('@') {
            Some((repo, revision)) => (repo, Some(revision)),
            None => (name, None),
        },
    };
    let (owner, model) = repo.split_once('/')?;
    let good = |part| plain(part, "._-") && !part.contains("..") && !part.contains("--");
    (good(owner) && good(model)).then_some((repo, revision))
}

/// True for the name of a file of a model, and for a name in a directory that exists here: a path with
/// a mistake in it must not download what somebody has put under that name.
fn looks_local(path: &Path) -> bool {
    let file = path.extension().is_some_and(|e| e == "safetensors" || e == "gguf" || e == "json");
    file || path.parent().is_some_and(|parent| parent != Path::new("") && parent.is_dir())
}

/// The repository and the revision in the path of a page: `owner/name`, then maybe `tree/REVISION`
/// or `blob/REVISION/FILE`.
fn of_page(path: &str) -> Option<(&str, Option<&str>)> {
    let path = path.split(['?', '#']).next()?.trim_end_matches('/');
    let Some((end, _)) = path.match_indices('/').nth(1) else {
        return Some((path, None));
    };
    let mut parts = path[end + 1..].split('/');
    let revision = match parts.next()? {
        "tree" | "blob" | "resolve" => parts.next(),
        _ => None,
    };
    Some((&path[..end], revision))
}

/// True if `text` begins with an ASCII letter or digit and consists of these and `others`.
fn plain(text: &str, others: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || others.contains(c))
}

#[cfg(test)]
mod tests {
    use super::repository;

    #[test]
    fn names_of_repositories() {
        let revision = |name| repository(name).map(|(repo, revision)| (repo.to_owned(), revision));
        assert_eq!(revision("a-b/C.d_1"), Some(("a-b/C.d_1".to_owned(), None)));
        assert_eq!(revision("a/b@v1/x"), Some(("a/b".to_owned(), Some("v1/x"))));
        for page in ["https://huggingface.co/a/b", "hf.co/a/b/", "http://huggingface.co/a/b?x=1#y"]
        {
            assert_eq!(revision(page), Some(("a/b".to_owned(), None)), "{page}");
        }
        for (page, expected) in
            [("tree/v1", Some("v1")), ("blob/v1/x.json", Some("v1")), ("discussions", None)]
        {
            let page = format!("https://huggingface.co/a/b/{page}");
            assert_eq!(repository(&page), Some(("a/b", expected)), "{page}");
        }
        for path in [
            "a",
            "./a/b",
            "../a",
            "a/b/c",
            "/a/b",
            "~/a",
            "a/../b",
            "a/..",
            "a b/c",
            "a/",
            "/a",
            "a/-b",
            "a\\b",
            "https://huggingface.co/a",
            "https://example.com/a/b",
        ] {
            assert_eq!(repository(path), None, "{path}");
        }
    }
}
