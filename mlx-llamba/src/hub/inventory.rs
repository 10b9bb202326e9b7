//! Lists the repositories in the cache.

use std::collections::BTreeSet;
use std::path::{Component, Path, PathBuf};
use std::time::SystemTime;

use super::cache::{Wanted, is_complete};
use crate::{Error, Result};

/// The prefix of the directory of a model's repository.
const PREFIX: &str = "models--";

/// A repository in the cache.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct CachedRepo {
    /// The name on the hub, `owner/name`.
    pub name: String,
    /// Its directory in the cache.
    pub path: PathBuf,
    /// Size on the disk in bytes, including partial downloads.
    pub bytes: u64,
    /// The size of partial downloads among these.
    pub unfinished: u64,
    /// Its revisions, in the order of their commits.
    pub revisions: Vec<CachedRevision>,
}

/// A revision of a repository in the cache.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct CachedRevision {
    /// The commit.
    pub commit: String,
    /// Branches and tags that are at this commit.
    pub references: Vec<String>,
    /// Directory of its files.
    pub path: PathBuf,
    /// Bytes of its files. Other revisions may share them.
    pub bytes: u64,
    /// The time at which its last file was added.
    pub modified: Option<SystemTime>,
    /// True if all files of a model are there.
    pub has_model: bool,
    /// True if all files of a tokenizer are there.
    pub has_tokenizer: bool,
    /// Names of the blobs that its files are links to.
    pub(super) blobs: BTreeSet<String>,
}

/// Lists the repositories of models in a cache, by name; none if the directory does not exist. Links
/// are never followed out of the cache.
///
/// # Errors
/// [`Error::Io`] if a directory cannot be read.
pub fn cached(cache: &Path) -> Result<Vec<CachedRepo>> {
    let mut repos = Vec::new();
    for (name, path) in entries(cache)? {
        let repo = name.strip_prefix(PREFIX).and_then(|name| name.split_once("--"));
        let Some((owner, model)) = repo.filter(|_| is_directory(&path)) else { continue };
        repos.push(repo_at(format!("{owner}/{model}"), path)?);
    }
    Ok(repos)
}

fn repo_at(name: String, path: PathBuf) -> Result<CachedRepo> {
    let (mut bytes, mut unfinished) = (0, 0);
    for (blob, path) in entries(&path.join("blobs"))? {
        let length = path.symlink_metadata().map_or(0, |metadata| metadata.len());
        bytes += length;
        unfinished += if blob.ends_with(".part") { length } else { 0 };
    }
    let mut references = Vec::new();
    read_references(&path.join("refs"), "", &mut references)?;
    let mut revisions = Vec::new();
    for (commit, directory) in entries(&path.join("snapshots"))? {
        if !commit.starts_with('.') && is_directory(&directory) {
            revisions.push(revision_at(commit, directory, &references)?);
        }
    }
    Ok(CachedRepo { name, path, bytes, unfinished, revisions })
}

fn revision_at(
    commit: String,
    path: PathBuf,
    references: &[(String, String)],
) -> Result<CachedRevision> {
    let mut revision = CachedRevision {
        references: references
            .iter()
            .filter(|(_, at)| *at == commit)
            .map(|r| r.0.clone())
            .collect(),
        has_model: is_complete(&path, Wanted::Model),
        has_tokenizer: is_complete(&path, Wanted::Tokenizer),
        commit,
        path,
        bytes: 0,
        modified: None,
        blobs: BTreeSet::new(),
    };
    let directory = revision.path.clone();
    read_files(&directory, &mut revision)?;
    Ok(revision)
}

/// Adds the files in a directory of a snapshot to the revision.
fn read_files(directory: &Path, revision: &mut CachedRevision) -> Result<()> {
    for (_, path) in entries(directory)? {
        let Ok(metadata) = path.symlink_metadata() else { continue };
        if metadata.is_dir() {
            read_files(&path, revision)?;
            continue;
        }
        revision.modified = revision.modified.max(metadata.modified().ok());
        let blob = blob_of(&path);
        let length = match &blob {
            Some(blob) => blob.symlink_metadata().map_or(0, |blob| blob.len()),
            None => metadata.len(),
        };
        revision.bytes += length;
        let name = blob.as_ref().and_then(|blob| blob.file_name());
        revision.blobs.extend(name.map(|name| name.to_string_lossy().into_owned()));
    }
    Ok(())
}

/// The blob that a file of a snapshot is a link to: `../../blobs/NAME`, with more `..` in deeper
/// directories. `None` for links to elsewhere.
fn blob_of(link: &Path) -> Option<PathBuf> {
    let target = std::fs::read_link(link).ok()?;
    let mut at = link.parent()?;
    let mut parts = target.components();
    loop {
        match parts.next()? {
            Component::ParentDir => at = at.parent()?,
            Component::Normal(blobs) if blobs == "blobs" => break,
            _ => return None,
        }
    }
    let name = parts.next().filter(|_| parts.next().is_none())?;
    let blobs = at.join("blobs");
    (at.join("snapshots").is_dir() && is_directory(&blobs)).then(|| blobs.join(name))
}

fn read_references(
    directory: &Path,
    prefix: &str,
    references: &mut Vec<(String, String)>,
) -> Result<()> {
    for (name, path) in entries(directory)? {
        let name = format!("{prefix}{name}");
        if is_directory(&path) {
            read_references(&path, &format!("{name}/"), references)?;
        } else if let Ok(commit) = std::fs::read_to_string(&path) {
            references.push((name, commit.trim().to_owned()));
        }
    }
    Ok(())
}

/// True for a directory that is not a link to one.
pub(super) fn is_directory(path: &Path) -> bool {
    path.symlink_metadata().is_ok_and(|metadata| metadata.is_dir())
}

/// The entries of a directory, by name; none if it does not exist.
pub(super) fn entries(directory: &Path) -> Result<Vec<(String, PathBuf)>> {
    let failed = |source| Error::Io { action: "list", path: directory.to_owned(), source };
    let entries = match std::fs::read_dir(directory) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(failed)?,
    };
    let named = |entry: std::io::Result<std::fs::DirEntry>| {
        entry.map(|entry| (entry.file_name().to_string_lossy().into_owned(), entry.path()))
    };
    let mut entries: Vec<_> = entries.map(named).collect::<std::io::Result<_>>().map_err(failed)?;
    entries.sort();
    Ok(entries)
}
