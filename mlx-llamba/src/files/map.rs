//! Files mapped into memory.

use std::fs::File;
use std::ops::{Deref, Range};
use std::path::Path;

use memmap2::{Mmap, UncheckedAdvice};

use crate::error::{Error, Result};

/// A read-only mapping of a whole file.
///
/// If another process shortens the file while it is mapped, reading the lost part ends this
/// process with a bus error, as with every mapped file.
#[derive(Debug)]
pub struct Map(Mmap);

impl Map {
    /// Maps the file at `path`, which must not be empty.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(Error::io("read", path))?;
        // SAFETY: the mapping is read-only and is only ever seen as plain bytes, for which every
        // value is valid; see the type's note on files that shrink.
        unsafe { Mmap::map(&file) }.map(Self).map_err(Error::io("read", path))
    }

    /// Drops the pages of `range` from memory; reading them again brings them back.
    pub(crate) fn release(&self, range: Range<usize>) {
        if range.start < range.end && range.end <= self.0.len() {
            // SAFETY: the mapping is of a file, shared and never written, so dropped pages come
            // back with the same content. If the system refuses the advice, nothing changes.
            let _ = unsafe {
                self.0.unchecked_advise_range(UncheckedAdvice::DontNeed, range.start, range.len())
            };
        }
    }
}

impl Deref for Map {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}
