//! A directory that appears under its name only when it is whole.

use std::fs;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::atomic::{self, parent};
use crate::error::{Error, Result};

/// A directory in the making, hidden beside the place where it will stand. Dropped before
/// [`Output::publish`], it is removed; a killed process leaves it under its hidden name.
pub struct Output {
    target: PathBuf,
    staging: TempDir,
    overwrite: bool,
}

impl Output {
    /// Refuses a `target` that exists, unless `overwrite` is set and it is a checkpoint.
    ///
    /// # Errors
    /// [`Error::OutputExists`], [`Error::Io`]; [`Error::Option`] if it is no name.
    pub fn create(target: &Path, overwrite: bool) -> Result<Self> {
        // A trailing slash would make the hidden name a child of the target.
        let target: PathBuf = target.components().collect();
        let exists = fs::symlink_metadata(&target).is_ok();
        if exists && !(overwrite && replaceable(&target)) {
            return Err(Error::OutputExists { path: target });
        }
        let name = target.file_name().ok_or_else(|| Error::Option {
            option: "output",
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

    /// Where the files are put.
    pub fn directory(&self) -> &Path {
        self.staging.path()
    }

    /// Writes a small file.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn write(&self, name: &str, text: impl AsRef<[u8]>) -> Result<()> {
        let path = self.directory().join(name);
        fs::write(&path, text).map_err(Error::io("write", &path))
    }

    /// Copies a file under its own name.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn copy(&self, file: &Path) -> Result<()> {
        let Some(name) = file.file_name() else {
            return Ok(());
        };
        let path = self.directory().join(name);
        fs::copy(file, &path).map(drop).map_err(Error::io("copy to", &path))
    }

    /// Flushes everything to the disk and gives the directory its name.
    ///
    /// # Errors
    /// [`Error::Io`]; then what stood there before stands there again.
    pub fn publish(self) -> Result<PathBuf> {
        let staging = self.staging.path();
        for entry in fs::read_dir(staging).map_err(Error::io("list", staging))? {
            sync(&entry.map_err(Error::io("list", staging))?.path())?;
        }
        sync(staging)?;
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

    /// Moves what stands under the name out of the way; it goes when the new one is there.
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

fn sync(path: &Path) -> Result<()> {
    atomic::sync(path).map_err(Error::io("flush", path))
}

/// True for an empty directory, or one of plain files with a model among them: overwriting must
/// not be able to take anything else away.
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
        if !entry.file_type().is_ok_and(|kind| kind.is_file()) {
            return false;
        }
        empty = false;
        model |= Path::new(&entry.file_name()).extension().is_some_and(|e| e == "safetensors");
    }
    empty || model
}
