//! The bytes of a weight file, which is mapped or part of the program.

use std::fs::File;
use std::io::ErrorKind;
use std::ops::Range;
use std::path::{Path, PathBuf};

use super::map::Map;
use crate::error::{Error, Result};

/// Opens a regular file to read it. Pipes and devices are refused: they may never begin or end.
///
/// # Errors
/// Those of the file system.
pub fn open(path: &Path) -> std::io::Result<File> {
    if !std::fs::metadata(path)?.is_file() {
        return Err(std::io::Error::new(ErrorKind::InvalidInput, "it is not a regular file"));
    }
    File::open(path)
}

/// Reads a regular file.
///
/// # Errors
/// As for [`open`].
pub fn read(path: &Path) -> std::io::Result<Vec<u8>> {
    open(path)?;
    std::fs::read(path)
}

/// Reads a regular file of text.
///
/// # Errors
/// As for [`open`], or the text is not UTF-8.
pub fn read_text(path: &Path) -> std::io::Result<String> {
    open(path)?;
    std::fs::read_to_string(path)
}

/// The read-only bytes of a file.
#[derive(Debug)]
pub struct Source {
    pub(crate) path: PathBuf,
    bytes: Bytes,
}

#[derive(Debug)]
enum Bytes {
    Mapped(Map),
    Static(&'static [u8]),
}

impl Source {
    /// Maps a file without reading it. The file must not be shortened while it is mapped.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::NotACheckpoint`] if it is not a regular file.
    pub fn open(path: &Path) -> Result<Self> {
        // Opening a pipe would wait for a writer.
        let metadata = std::fs::metadata(path).map_err(Error::io("read", path))?;
        if !metadata.is_file() {
            return Err(Error::NotACheckpoint {
                path: path.to_owned(),
                reason: "not a regular file".into(),
            });
        }
        // An empty file cannot be mapped. Its header will be refused as too short.
        let bytes = match metadata.len() {
            0 => Bytes::Static(&[]),
            _ => Bytes::Mapped(Map::open(path)?),
        };
        Ok(Self { path: path.to_owned(), bytes })
    }

    /// Bytes that are part of the program, with a name in place of a path.
    pub(crate) fn from_static(name: &str, bytes: &'static [u8]) -> Self {
        Self { path: name.into(), bytes: Bytes::Static(bytes) }
    }

    /// All bytes.
    pub fn bytes(&self) -> &[u8] {
        match &self.bytes {
            Bytes::Mapped(map) => map,
            Bytes::Static(bytes) => bytes,
        }
    }

    /// The path of the file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// False for bytes that are part of the program.
    pub(crate) fn is_file(&self) -> bool {
        matches!(self.bytes, Bytes::Mapped(_))
    }

    /// Drops the pages of these bytes from memory: a copy has been made. They stay readable.
    pub fn release(&self, range: Range<usize>) {
        if let Bytes::Mapped(map) = &self.bytes {
            map.release(range);
        }
    }
}
