//! Directories that appear complete or not at all.

use std::fs;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::TokenizerFiles;
use super::atomic::{self, parent};
use crate::error::{Error, Result};

/// A directory being written: it has a hidden name beside its target until
/// [`publish`](Self::publish). Dropping it earlier removes it; a killed process leaves it behind.
pub struct Output {
    target: PathBuf,
    staging: TempDir,
    overwrite: bool,
}

impl Output {
    /// Creates the hidden directory. A `target` that exists is refused unless `overwrite` is set and
    /// it is empty or a checkpoint.
    ///
    /// # Errors
    /// [`Error::OutputExists`], [`Error::Io`]; [`Error::Argument`] if it has no name.
    pub fn create(target: &Path, overwrite: bool) -> Result<Self> {
        // A trailing slash would make the hidden name a child of the target.
        let target: PathBuf = target.components().collect();
        let exists = fs::symlink_metadata(&target).is_ok();
        if exists && !(overwrite && replaceable(&target)) {
            return Err(Error::OutputExists { path: target });
        }
        let name = target.file_name().ok_or_else(|| Error::Argument {
            name: "output",
            value: target.display().to_string(),
            expected: "the name of a directory".into(),
        })?;
        let mut builder = tempfile::Builder::new();
        let prefix = format!(".{}.", name.to_string_lossy());
        builder.prefix(&prefix).suffix(".partial");
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            builder.permissions(fs::Permissions::from_mode(0o777));
        }
        let staging = builder
            .tempdir_in(parent(&target))
            .map_err(|error| Error::io("create", &target)(atomic::without_path(error)))?;
        Ok(Self { target, staging, overwrite })
    }

    /// The hidden directory, for writing files.
    pub fn directory(&self) -> &Path {
        self.staging.path()
    }

    /// Writes a small file; `name` may begin with a directory.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn write(&self, name: &str, text: impl AsRef<[u8]>) -> Result<()> {
        let path = self.directory().join(name);
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory).map_err(Error::io("create", directory))?;
        }
        fs::write(&path, text).map_err(Error::io("write", &path))
    }

    /// Writes the files that a model has beside its weights.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn write_all(&self, files: &TokenizerFiles) -> Result<()> {
        files.iter().try_for_each(|(name, bytes)| self.write(name, bytes))
    }

    /// Flushes everything to the disk and gives the directory its name, which it returns.
    ///
    /// # Errors
    /// [`Error::Io`]; then the target is as before.
    pub fn publish(self) -> Result<PathBuf> {
        let staging = self.staging.path();
        sync_all(staging)?;
        let old = self.set_aside()?;
        if let Err(error) = fs::rename(staging, &self.target) {
            if let Some(old) = old {
                let _ = fs::rename(old.path().join("old"), &self.target);
            }
            return Err(Error::io("create", &self.target)(error));
        }
        let _ = self.staging.keep();
        sync(parent(&self.target))?;
        Ok(self.target)
    }

    /// Moves an existing target aside; it is removed when the returned directory is dropped.
    fn set_aside(&self) -> Result<Option<TempDir>> {
        if !self.overwrite || fs::symlink_metadata(&self.target).is_err() {
            return Ok(None);
        }
        let aside =
            TempDir::new_in(parent(&self.target)).map_err(Error::io("create", &self.target))?;
        fs::rename(&self.target, aside.path().join("old"))
            .map_err(Error::io("rename", &self.target))?;
        Ok(Some(aside))
    }
}

/// Flushes a directory and everything in it to the disk.
fn sync_all(directory: &Path) -> Result<()> {
    for entry in fs::read_dir(directory).map_err(Error::io("list", directory))? {
        let path = entry.map_err(Error::io("list", directory))?.path();
        if path.is_dir() { sync_all(&path)? } else { sync(&path)? }
    }
    sync(directory)
}

fn sync(path: &Path) -> Result<()> {
    atomic::sync(path).map_err(Error::io("flush", path))
}

/// True for an empty directory, and for one that holds weights and nothing but files and chat
/// templates: overwriting must not be able to delete anything else.
fn replaceable(path: &Path) -> bool {
    if !fs::symlink_metadata(path).is_ok_and(|m| m.is_dir()) {
        return false;
    }
    let Ok(entries) = fs::read_dir(path) else {
        return false;
    };
    let (mut empty, mut model) = (true, false);
    for entry in entries {
        let Ok(entry) = entry else { return false };
        let file = entry.file_type().is_ok_and(|kind| kind.is_file());
        if !file && !TokenizerFiles::is_template_directory(&entry.path()) {
            return false;
        }
        empty = false;
        model |= Path::new(&entry.file_name()).extension().is_some_and(|e| e == "safetensors");
    }
    empty || model
}
