//! Mapped files: all `unsafe` of this module.

use std::fs::File;
use std::ops::Deref;
use std::path::Path;

use memmap2::Mmap;

use crate::Result;
use crate::train::io;

/// A read-only mapping of a whole file.
///
/// If another process shortens the file while it is mapped, reading the lost part ends this
/// process with a bus error, as with every mapped file.
#[derive(Debug)]
pub(crate) struct Map(Mmap);

impl Map {
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(io("read", path))?;
        // SAFETY: the mapping is read-only and handed out only as plain bytes, for which every
        // value is valid; see the type's note on files that shrink.
        unsafe { Mmap::map(&file) }.map(Self).map_err(io("read", path))
    }
}

impl Deref for Map {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}
