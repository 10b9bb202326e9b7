//! Directories that appear complete or not at all.

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::TokenizerFiles;
use super::atomic::{self, parent};
use crate::error::{Error, Result};

/// A directory being written: it has a hidden name beside its target until
/// [`publish`](Self::publish). Dropping it earlier removes it; what a killed process left is removed
/// by the next one that writes to the target.
pub struct Output {
    target: PathBuf,
    staging: TempDir,
    /// Locked for as long as somebody writes the directory.
    _lock: File,
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
        let name = target.file_name().ok_or_else(|| Error::Argument {
            name: "output",
            value: target.display().to_string(),
            expected: "the name of a directory".into(),
        })?;
        let prefix = format!(".{}.", name.to_string_lossy());
        sweep(&target, &prefix);
        let exists = fs::symlink_metadata(&target).is_ok();
        if exists && !(overwrite && replaceable(&target)) {
            return Err(Error::OutputExists { path: target });
        }
        let mut builder = tempfile::Builder::new();
        builder.prefix(&prefix).suffix(SUFFIX);
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            builder.permissions(fs::Permissions::from_mode(0o777));
        }
        loop {
            let staging = builder
                .tempdir_in(parent(&target))
                .map_err(|error| Error::io("create", &target)(atomic::without_path(error)))?;
            // A sweep may have come between creating and locking. Not every file system locks.
            let lock = File::open(staging.path()).map_err(Error::io("create", &target))?;
            let swept = matches!(lock.try_lock(), Err(TryLockError::WouldBlock));
            if !swept && staging.path().exists() {
                return Ok(Self { target, staging, _lock: lock, overwrite });
            }
        }
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
        if self.overwrite && fs::symlink_metadata(&self.target).is_ok() {
            match exchange(staging, &self.target) {
                // The hidden directory is the old one now, and removed.
                Ok(true) => {
                    sync(parent(&self.target))?;
                    return Ok(self.target);
                }
                Ok(false) => {}
                Err(error) => return Err(Error::io("replace", &self.target)(error)),
            }
        }
        let old = self.set_aside()?;
        if let Err(error) = fs::rename(staging, &self.target) {
            if let Some(old) = old {
                let _ = fs::rename(&old, &self.target);
            }
            return Err(Error::io("create", &self.target)(error));
        }
        let _ = self.staging.keep();
        sync(parent(&self.target))?;
        if let Some(old) = old {
            let _ = fs::remove_dir_all(old);
        }
        Ok(self.target)
    }

    /// Moves an existing target aside, where the next [`sweep`] finds it if this process is killed.
    fn set_aside(&self) -> Result<Option<PathBuf>> {
        if !self.overwrite || fs::symlink_metadata(&self.target).is_err() {
            return Ok(None);
        }
        let name = self.target.file_name().unwrap_or_default().to_string_lossy();
        let aside = self.target.with_file_name(format!(".{name}.{OLD}"));
        fs::rename(&self.target, &aside).map_err(Error::io("rename", &self.target))?;
        Ok(Some(aside))
    }
}

/// The ends of the names of a directory that is written, and of one that was replaced.
const SUFFIX: &str = ".partial";
const OLD: &str = "replaced";

/// Exchanges two directories in one step; false where the system cannot do that.
fn exchange(a: &Path, b: &Path) -> std::io::Result<bool> {
    #[cfg(any(target_os = "linux", target_os = "macos"))]
    {
        use rustix::fs::{CWD, RenameFlags, renameat_with};
        use rustix::io::Errno;
        match renameat_with(CWD, a, CWD, b, RenameFlags::EXCHANGE) {
            Ok(()) => Ok(true),
            Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
    #[cfg(not(any(target_os = "linux", target_os = "macos")))]
    {
        let _ = (a, b);
        Ok(false)
    }
}

/// Removes what killed processes left beside `target`, and puts back a directory that one of them
/// had moved aside and not replaced.
fn sweep(target: &Path, prefix: &str) {
    let Ok(entries) = fs::read_dir(parent(target)) else { return };
    for entry in entries.flatten() {
        let (path, name) = (entry.path(), entry.file_name());
        let Some(rest) = name.to_str().and_then(|name| name.strip_prefix(prefix)) else { continue };
        if rest == OLD {
            let _ = match fs::symlink_metadata(target).is_ok() {
                true => fs::remove_dir_all(&path),
                false => fs::rename(&path, target),
            };
        } else if rest.strip_suffix(SUFFIX).is_some_and(|middle| !middle.contains('.'))
            && File::open(&path).is_ok_and(|file| file.try_lock().is_ok())
        {
            let _ = fs::remove_dir_all(&path);
        }
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn names(directory: &Path) -> Vec<String> {
        let entries = fs::read_dir(directory).unwrap();
        let mut names: Vec<_> =
            entries.map(|e| e.unwrap().file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    /// A reader that opens the target again and again finds the old or the new one.
    #[test]
    fn a_directory_is_replaced_in_one_step() {
        let place = tempfile::tempdir().unwrap();
        let target = place.path().join("model");
        fs::create_dir(&target).unwrap();
        fs::write(target.join("model.safetensors"), "0").unwrap();
        let done = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            let reader = scope.spawn(|| {
                while !done.load(std::sync::atomic::Ordering::Relaxed) {
                    fs::read(target.join("model.safetensors")).unwrap();
                }
            });
            for number in 1..50 {
                let output = Output::create(&target, true).unwrap();
                output.write("model.safetensors", number.to_string()).unwrap();
                output.publish().unwrap();
            }
            done.store(true, std::sync::atomic::Ordering::Relaxed);
            reader.join().unwrap();
        });
        assert_eq!(fs::read_to_string(target.join("model.safetensors")).unwrap(), "49");
        assert_eq!(names(place.path()), ["model"]);
    }

    #[test]
    fn what_killed_writers_left_is_swept() {
        let place = tempfile::tempdir().unwrap();
        let target = place.path().join("model");
        for name in [".model.abc.partial", ".model.abc.d.partial", ".other.abc.partial"] {
            fs::create_dir(place.path().join(name)).unwrap();
        }
        let old = place.path().join(".model.replaced");
        fs::create_dir(&old).unwrap();
        fs::write(old.join("model.safetensors"), "old").unwrap();
        // One that was moved aside and not replaced comes back.
        assert!(matches!(Output::create(&target, false), Err(Error::OutputExists { .. })));
        assert_eq!(fs::read_to_string(target.join("model.safetensors")).unwrap(), "old");
        let writing = Output::create(&target, true).unwrap();
        let second = Output::create(&target, true).unwrap();
        assert!(writing.directory().exists());
        drop((writing, second));
        assert_eq!(names(place.path()), [".model.abc.d.partial", ".other.abc.partial", "model"]);
    }
}
