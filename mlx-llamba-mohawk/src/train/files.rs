//! Files and directories that appear whole or not at all.

use std::fs::{self, File};
use std::io::{self as stdio, Write};
use std::path::{Path, PathBuf};

use crate::{Error, Result};

/// An error of the system, with what was tried on which file.
pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(stdio::Error) -> Error {
    move |source| Error::Io { action, path: path.to_owned(), source }
}

/// The directory of a file.
pub(crate) fn parent(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Writes `bytes` to `path`, replacing what was there: first under a hidden name, flushed to the
/// disk, then renamed.
pub(crate) fn write_whole(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut file = Whole::create(path)?;
    file.write_all(bytes).map_err(io("write", path))?;
    file.publish()
}

/// A file in the making. Dropped before [`Whole::publish`], it is removed; a killed process leaves
/// it under its hidden name, `.NAME.PROCESS.partial`.
#[derive(Debug)]
pub(crate) struct Whole {
    file: File,
    hidden: PathBuf,
    path: PathBuf,
    published: bool,
}

impl Whole {
    pub(crate) fn create(path: &Path) -> Result<Self> {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let hidden = parent(path).join(format!(".{name}.{}.partial", std::process::id()));
        let file = File::create(&hidden).map_err(io("write", path))?;
        Ok(Self { file, hidden, path: path.to_owned(), published: false })
    }

    /// Flushes it to the disk and gives it its name.
    pub(crate) fn publish(mut self) -> Result<()> {
        self.file.sync_all().map_err(io("write", &self.path))?;
        fs::rename(&self.hidden, &self.path).map_err(io("write", &self.path))?;
        self.published = true;
        sync(parent(&self.path))
    }
}

impl Write for Whole {
    fn write(&mut self, bytes: &[u8]) -> stdio::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> stdio::Result<()> {
        self.file.flush()
    }
}

impl Drop for Whole {
    fn drop(&mut self) {
        if !self.published {
            let _ = fs::remove_file(&self.hidden);
        }
    }
}

/// Flushes a file or directory to the disk.
pub(crate) fn sync(path: &Path) -> Result<()> {
    File::open(path).and_then(|file| file.sync_all()).map_err(io("write", path))
}
