//! Files that appear whole or not at all.

use std::io::{Error, Result, Write};
use std::path::Path;

/// Writes `bytes` to `path`, replacing what was there: first under a temporary name in the same
/// directory, flushed to the disk, then renamed.
pub(crate) fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let mut file = tempfile::NamedTempFile::new_in(directory).map_err(plain)?;
    file.as_file_mut().write_all(bytes)?;
    file.as_file().sync_all()?;
    // Temporary files are private; the result gets the permissions of any new file.
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        file.as_file().set_permissions(std::fs::Permissions::from_mode(0o644))?;
    }
    file.persist(path).map_err(|e| e.error)?;
    Ok(())
}

/// The system's own words, without the temporary name that tempfile adds: nobody asked for that.
pub(crate) fn plain(error: Error) -> Error {
    match error.to_string().split_once(" at path \"") {
        Some((cause, _)) => Error::new(error.kind(), cause.to_owned()),
        None => error,
    }
}
