//! The progress of long calls, and the way to stop them.

use std::ops::ControlFlow;

use crate::error::{Error, Result};

/// The part of a call's work that is done. The call documents the unit: bytes, tokens or values.
#[non_exhaustive]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress<'a> {
    /// The tensor or file that the call works on; empty if there is only one.
    pub item: &'a str,
    /// The work done so far.
    pub done: u64,
    /// The whole work.
    pub total: u64,
}

/// Receives the progress of a call. [`ControlFlow::Break`] stops the call, which then fails with
/// [`Error::Interrupted`] and leaves nothing unfinished behind.
pub type OnProgress<'a> = &'a mut (dyn FnMut(Progress<'_>) -> ControlFlow<()> + Send);

/// Ignores the progress of a call.
pub fn ignore(_: Progress<'_>) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

impl<'a> Progress<'a> {
    /// Describes the progress of work on `item`.
    #[must_use]
    pub fn new(item: &'a str, done: u64, total: u64) -> Self {
        Self { item, done, total }
    }

    /// Tells the caller.
    ///
    /// # Errors
    /// [`Error::Interrupted`] if the caller stops the work.
    pub fn tell(self, on_progress: OnProgress<'_>) -> Result<()> {
        match on_progress(self) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(Error::Interrupted),
        }
    }
}
