//! The bytes of a weight file: mapped, or part of the program.

use std::ops::Range;
use std::path::{Path, PathBuf};

use super::map::Map;
use crate::error::{Error, Result};

/// Read-only bytes, shared by everything that reads from them.
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
    /// Maps a file. Nothing is read yet. The file must not be shortened while it is mapped.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::NotACheckpoint`] for what is no regular file.
    pub fn open(path: &Path) -> Result<Self> {
        // Opening a pipe would wait for its other end.
        let metadata = std::fs::metadata(path).map_err(Error::io("read", path))?;
        if !metadata.is_file() {
            return Err(Error::NotACheckpoint {
                path: path.to_owned(),
                reason: "not a regular file".into(),
            });
        }
        // An empty file cannot be mapped; it is refused as a header that is too short.
        let bytes = match metadata.len() {
            0 => Bytes::Static(&[]),
            _ => Bytes::Mapped(Map::open(path)?),
        };
        Ok(Self { path: path.to_owned(), bytes })
    }

    /// Bytes that live in the program; `name` stands in for a path in messages.
    pub(crate) fn from_static(name: &str, bytes: &'static [u8]) -> Self {
        Self { path: name.into(), bytes: Bytes::Static(bytes) }
    }

    /// All of them.
    pub fn bytes(&self) -> &[u8] {
        match &self.bytes {
            Bytes::Mapped(map) => map,
            Bytes::Static(bytes) => bytes,
        }
    }

    /// What it was opened from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// False for bytes that are part of the program.
    pub(crate) fn is_file(&self) -> bool {
        matches!(self.bytes, Bytes::Mapped(_))
    }

    /// Tells the system that these bytes will not be needed again soon: whoever asked for them
    /// has a copy. They stay readable.
    pub fn release(&self, range: Range<usize>) {
        if let Bytes::Mapped(map) = &self.bytes {
            map.release(range);
        }
    }
}
