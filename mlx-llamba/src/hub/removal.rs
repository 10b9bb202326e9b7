//! Removes repositories and revisions from the cache. They are renamed before they are deleted, so
//! that a process that is killed leaves nothing that looks complete; the next removal deletes it.

use std::collections::BTreeSet;
use std::fs::File;
use std::path::{Path, PathBuf};

use super::failure::hub;
use super::inventory::{CachedRepo, entries, is_directory};
use crate::{Error, Result};

/// The suffix of directories that are being deleted.
const REMOVED: &str = ".removed";

/// A planned removal.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Removal {
    /// The number of bytes that it frees.
    pub bytes: u64,
    repo: CachedRepo,
    /// The revision to remove; `None` for the whole repository.
    commit: Option<String>,
}

impl Removal {
    /// Plans the removal of one revision, or of the whole repository. Blobs of other revisions stay.
    ///
    /// # Errors
    /// [`Error::Argument`] if there is no such revision, or several: `revision` is a branch, a tag or
    /// the beginning of a commit.
    pub fn plan(repo: &CachedRepo, revision: Option<&str>) -> Result<Self> {
        let whole = Self { bytes: repo.bytes, repo: repo.clone(), commit: None };
        let Some(wanted) = revision else { return Ok(whole) };
        let exact = |r: &&super::CachedRevision| r.references.iter().any(|name| name == wanted);
        let mut found: Vec<_> = repo.revisions.iter().filter(exact).collect();
        if found.is_empty() {
            found = repo.revisions.iter().filter(|r| r.commit.starts_with(wanted)).collect();
        }
        let [found] = found[..] else {
            let there = repo.revisions.iter().map(|r| match r.references.first() {
                Some(name) => format!("{} ({name})", r.commit),
                None => r.commit.clone(),
            });
            let there = there.collect::<Vec<_>>().join(", ");
            let number = if found.is_empty() { "one" } else { "only one" };
            let expected = format!("{number} of those in the cache: {there}");
            return Err(Error::Argument { name: "revision", value: wanted.to_owned(), expected });
        };
        if repo.revisions.len() == 1 {
            return Ok(whole);
        }
        let commit = Some(found.commit.clone());
        let removal = Self { bytes: 0, repo: repo.clone(), commit };
        let bytes = removal.blobs().iter().map(|blob| blob.metadata().map_or(0, |m| m.len())).sum();
        Ok(Self { bytes, ..removal })
    }

    /// The blobs that no other revision needs.
    fn blobs(&self) -> Vec<PathBuf> {
        let is_it = |commit: &String| Some(commit) == self.commit.as_ref();
        let all = || self.repo.revisions.iter();
        let kept: BTreeSet<&String> =
            all().filter(|r| !is_it(&r.commit)).flat_map(|r| &r.blobs).collect();
        let gone = all().filter(|r| is_it(&r.commit)).flat_map(|r| &r.blobs);
        let blobs = self.repo.path.join("blobs");
        gone.filter(|name| !kept.contains(name)).map(|name| blobs.join(name)).collect()
    }

    /// Removes the files.
    ///
    /// # Errors
    /// [`Error::Hub`] if another process is downloading the repository; [`Error::Io`].
    pub fn run(self) -> Result<()> {
        let repo = &self.repo;
        if !is_directory(&repo.path) {
            return Err(hub(&repo.name, "it is no longer in the cache".to_owned()));
        }
        let _locks = self.lock()?;
        let Some(commit) = &self.commit else {
            let name = repo.path.file_name().unwrap_or_default().to_string_lossy();
            let away = repo.path.with_file_name(format!(".{name}{REMOVED}"));
            set_aside(&repo.path, &away)?;
            return delete(&away);
        };
        let blobs = self.blobs();
        let revision = repo.revisions.iter().find(|revision| revision.commit == *commit);
        for name in revision.map_or(&[][..], |revision| &revision.references) {
            remove(&repo.path.join("refs").join(name))?;
        }
        let snapshots = repo.path.join("snapshots");
        let away = snapshots.join(format!(".{commit}{REMOVED}"));
        set_aside(&snapshots.join(commit), &away)?;
        for blob in blobs {
            remove(&blob)?;
            remove(&blob.with_extension("lock"))?;
        }
        // Last: while it exists, blobs without a link may be left.
        delete(&away)
    }

    /// Takes the locks of all downloads of this repository.
    fn lock(&self) -> Result<Vec<File>> {
        let mut locks = Vec::new();
        for (name, path) in entries(&self.repo.path.join("blobs"))? {
            let regular = path.symlink_metadata().is_ok_and(|metadata| metadata.is_file());
            if !name.ends_with(".lock") || !regular {
                continue;
            }
            let failed = |source| Error::Io { action: "lock", path: path.clone(), source };
            let file = File::open(&path).map_err(failed)?;
            match file.try_lock() {
                Ok(()) => locks.push(file),
                Err(std::fs::TryLockError::WouldBlock) => {
                    let reason = "another process is downloading it; stop that first".to_owned();
                    return Err(hub(&self.repo.name, reason));
                }
                Err(std::fs::TryLockError::Error(source)) => return Err(failed(source)),
            }
        }
        Ok(locks)
    }
}

/// Deletes what interrupted removals left.
///
/// # Errors
/// [`Error::Io`].
pub fn clean_up(cache: &Path) -> Result<()> {
    let removed = |name: &str| name.starts_with('.') && name.ends_with(REMOVED);
    for (name, path) in entries(cache)? {
        if removed(&name) && is_directory(&path) {
            delete(&path)?;
        }
    }
    for repo in super::cached(cache)? {
        let mut left = entries(&repo.path.join("snapshots"))?;
        left.retain(|(name, path)| removed(name) && is_directory(path));
        if !left.is_empty() {
            let whole = Removal { bytes: 0, repo, commit: None };
            // A download that is running may have no link yet.
            let Ok(_locks) = whole.lock() else { continue };
            let kept: BTreeSet<&String> =
                whole.repo.revisions.iter().flat_map(|revision| &revision.blobs).collect();
            for (name, path) in entries(&whole.repo.path.join("blobs"))? {
                if !name.ends_with(".part") && !name.ends_with(".lock") && !kept.contains(&name) {
                    remove(&path)?;
                }
            }
        }
        for (_, path) in left {
            delete(&path)?;
        }
    }
    Ok(())
}

/// Renames a directory to be deleted.
fn set_aside(path: &Path, away: &Path) -> Result<()> {
    if is_directory(away) {
        delete(away)?;
    }
    let failed = |source| Error::Io { action: "rename", path: path.to_owned(), source };
    std::fs::rename(path, away).map_err(failed)
}

/// Deletes a directory. Links in it are deleted, not followed.
fn delete(directory: &Path) -> Result<()> {
    let failed = |source| Error::Io { action: "remove", path: directory.to_owned(), source };
    std::fs::remove_dir_all(directory).map_err(failed)
}

fn remove(file: &Path) -> Result<()> {
    match std::fs::remove_file(file) {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::Io { action: "remove", path: file.to_owned(), source })
        }
        _ => Ok(()),
    }
}
