//! Files that appear whole or not at all.

use std::io::{Error, Result, Write};
use std::path::Path;
use std::time::{Duration, SystemTime};

/// What temporary names begin and end with.
const BEGINNING: &str = ".mlx-llamba-";
const END: &str = ".part";
/// A file of such a name that is older was left behind by a process that was killed.
const OLD: Duration = Duration::from_secs(3600);

/// Writes `bytes` to `path`, replacing what was there: first under a temporary name in the same
/// directory, flushed to the disk, then renamed. The permissions are those of the file that was
/// there, or of any new file.
pub(crate) fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let mut builder = tempfile::Builder::new();
    builder.prefix(BEGINNING).suffix(END);
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        // The process's mask is applied to it.
        builder.permissions(std::fs::Permissions::from_mode(0o666));
    }
    let mut file = builder.tempfile_in(directory).map_err(plain)?;
    file.as_file_mut().write_all(bytes)?;
    if let Ok(before) = std::fs::metadata(path) {
        file.as_file().set_permissions(before.permissions())?;
    }
    file.as_file().sync_all()?;
    file.persist(path).map_err(|e| e.error)?;
    Ok(())
}

/// Removes what processes that were killed have left behind in a directory.
pub(crate) fn sweep(directory: &Path) -> Result<()> {
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let modified = entry.metadata().and_then(|found| found.modified());
        let age = modified.ok().and_then(|time| SystemTime::now().duration_since(time).ok());
        if name.starts_with(BEGINNING) && name.ends_with(END) && age.is_some_and(|age| age > OLD) {
            // Another process may be faster.
            let _ = std::fs::remove_file(entry.path());
        }
    }
    Ok(())
}

/// The system's own words, without the temporary name that tempfile adds: nobody asked for that.
pub(crate) fn plain(error: Error) -> Error {
    match error.to_string().split_once(" at path \"") {
        Some((cause, _)) => Error::new(error.kind(), cause.to_owned()),
        None => error,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::fs::{File, FileTimes};

    use super::*;

    #[test]
    #[cfg(unix)]
    fn permissions_stay() {
        use std::os::unix::fs::PermissionsExt;
        let directory = tempfile::tempdir().unwrap();
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        let (ours, plain) = (directory.path().join("ours"), directory.path().join("plain"));
        write(&ours, b"a").unwrap();
        File::create(&plain).unwrap();
        assert_eq!(mode(&ours), mode(&plain));
        for wanted in [0o600, 0o664] {
            std::fs::set_permissions(&ours, std::fs::Permissions::from_mode(wanted)).unwrap();
            write(&ours, b"bc").unwrap();
            assert_eq!(mode(&ours), wanted);
        }
        assert_eq!(std::fs::read(&ours).unwrap(), b"bc");
    }

    #[test]
    fn old_remains_are_removed() {
        let directory = tempfile::tempdir().unwrap();
        let old = FileTimes::new().set_modified(SystemTime::now() - 2 * OLD);
        for (name, times) in [
            (".mlx-llamba-abc.part", Some(old)),
            (".mlx-llamba-new.part", None),
            ("mine.part", Some(old)),
        ] {
            let file = File::create(directory.path().join(name)).unwrap();
            if let Some(times) = times {
                file.set_times(times).unwrap();
            }
        }
        sweep(directory.path()).unwrap();
        let left = std::fs::read_dir(directory.path()).unwrap().map(|e| e.unwrap().file_name());
        let mut left: Vec<_> = left.collect();
        left.sort();
        assert_eq!(left, [".mlx-llamba-new.part", "mine.part"]);
    }
}
