//! Files that appear complete or not at all.

use std::fs::{self, File, TryLockError};
use std::io::{Error, Result, Write};
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

/// Temporary names begin and end with these.
const PREFIX: &str = ".mlx-llamba-";
const SUFFIX: &str = ".part";

/// A file being written: it has a temporary name in the target's directory until
/// [`publish`](Self::publish). Dropping it earlier removes it. If the process is killed, the next
/// [`sweep`] of the directory does: the file is locked for as long as somebody writes it.
#[derive(Debug)]
pub struct AtomicFile {
    file: NamedTempFile,
    path: PathBuf,
}

impl AtomicFile {
    /// Creates a temporary file in the directory of `path`.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn create(path: &Path) -> Result<Self> {
        // The process's umask still applies.
        Self::with_mode(path, 0o666)
    }

    /// Creates a temporary file that only its owner can read.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn private(path: &Path) -> Result<Self> {
        Self::with_mode(path, 0o600)
    }

    #[cfg_attr(not(unix), allow(unused_variables))]
    fn with_mode(path: &Path, mode: u32) -> Result<Self> {
        let mut builder = tempfile::Builder::new();
        builder.prefix(PREFIX).suffix(SUFFIX);
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            builder.permissions(fs::Permissions::from_mode(mode));
        }
        loop {
            let file = builder.tempfile_in(parent(path)).map_err(without_path)?;
            // A sweep may have come between creating and locking. Not every file system locks.
            let swept = matches!(file.as_file().try_lock(), Err(TryLockError::WouldBlock));
            if !swept && file.path().exists() {
                return Ok(Self { file, path: path.to_owned() });
            }
        }
    }

    /// Flushes the file to the disk and gives it its name, replacing what was there. It keeps the
    /// permissions of the file that it replaces.
    ///
    /// # Errors
    /// Those of the file system; then the old file is still there.
    pub fn publish(self) -> Result<()> {
        let file = self.file.as_file();
        if let Ok(before) = fs::metadata(&self.path) {
            file.set_permissions(before.permissions())?;
        }
        file.sync_all()?;
        self.file.persist(&self.path).map_err(|e| e.error)?;
        sync(parent(&self.path))
    }
}

// Through the file itself: tempfile would add the temporary path to errors.
impl Write for AtomicFile {
    fn write(&mut self, bytes: &[u8]) -> Result<usize> {
        self.file.as_file_mut().write(bytes)
    }

    fn flush(&mut self) -> Result<()> {
        self.file.as_file_mut().flush()
    }
}

/// Writes `bytes` to `path` as an [`AtomicFile`].
///
/// # Errors
/// Those of the file system; then the old file is still there.
pub fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    finish(AtomicFile::create(path)?, bytes)
}

/// Writes `bytes` to `path` as [`write()`] does. A new file can be read by its owner only.
///
/// # Errors
/// As for [`write()`].
pub fn write_private(path: &Path, bytes: &[u8]) -> Result<()> {
    finish(AtomicFile::private(path)?, bytes)
}

fn finish(mut file: AtomicFile, bytes: &[u8]) -> Result<()> {
    sweep(parent(&file.path))?;
    file.write_all(bytes)?;
    file.publish()
}

/// Creates a directory, and those that it lies in, for its owner only. One that exists is left as it
/// is.
///
/// # Errors
/// Those of the file system.
pub fn private_directory(path: &Path) -> Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(path)
}

/// Flushes a file or a directory to the disk.
///
/// # Errors
/// Those of the file system.
pub fn sync(path: &Path) -> Result<()> {
    File::open(path)?.sync_all()
}

/// The directory that `path` lies in.
pub(crate) fn parent(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Removes temporary files that killed processes left in a directory.
///
/// # Errors
/// Those of the file system if the directory cannot be listed.
pub fn sweep(directory: &Path) -> Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if !name.starts_with(PREFIX) || !name.ends_with(SUFFIX) {
            continue;
        }
        // Another process may have removed it first.
        if let Ok(file) = File::open(entry.path())
            && file.try_lock().is_ok()
        {
            let _ = fs::remove_file(entry.path());
        }
    }
    Ok(())
}

/// The system's own message, without the temporary path that tempfile adds to it.
pub(crate) fn without_path(error: Error) -> Error {
    match error.to_string().split_once(" at path \"") {
        Some((cause, _)) => Error::new(error.kind(), cause.to_owned()),
        None => error,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    #[cfg(unix)]
    fn permissions_stay() {
        use std::os::unix::fs::PermissionsExt;
        let directory = tempfile::tempdir().unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        let (ours, plain) = (directory.path().join("ours"), directory.path().join("plain"));
        write(&ours, b"a").unwrap();
        File::create(&plain).unwrap();
        assert_eq!(mode(&ours), mode(&plain));
        for wanted in [0o600, 0o664] {
            fs::set_permissions(&ours, fs::Permissions::from_mode(wanted)).unwrap();
            write(&ours, b"bc").unwrap();
            assert_eq!(mode(&ours), wanted);
        }
        assert_eq!(fs::read(&ours).unwrap(), b"bc");
    }

    #[test]
    #[cfg(unix)]
    fn private_files_are_their_owners() {
        use std::os::unix::fs::PermissionsExt;
        let directory = tempfile::tempdir().unwrap();
        let inner = directory.path().join("a/b");
        private_directory(&inner).unwrap();
        private_directory(&inner).unwrap();
        let file = inner.join("file");
        File::create(inner.join(".mlx-llamba-left.part")).unwrap();
        write_private(&file, b"text").unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!([mode(&inner), mode(&file)], [0o700, 0o600]);
        // Leftovers of a killed process are gone.
        assert_eq!(fs::read_dir(&inner).unwrap().count(), 1);
    }

    #[test]
    fn temporary_files_that_nobody_writes_are_removed() {
        let directory = tempfile::tempdir().unwrap();
        for name in [".mlx-llamba-abc.part", "mine.part"] {
            File::create(directory.path().join(name)).unwrap();
        }
        let mut writing = AtomicFile::create(&directory.path().join("new")).unwrap();
        sweep(directory.path()).unwrap();
        writing.write_all(b"text").unwrap();
        writing.publish().unwrap();
        let left = fs::read_dir(directory.path()).unwrap().map(|e| e.unwrap().file_name());
        let mut left: Vec<_> = left.collect();
        left.sort();
        assert_eq!(left, ["mine.part", "new"]);
    }
}
