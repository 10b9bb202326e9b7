//! Ctrl-C: the first one asks the work to end in good order, the second ends the process.

use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result};

static HAPPENED: AtomicBool = AtomicBool::new(false);

/// Calls `stop` at the first Ctrl-C (or termination signal).
pub(crate) fn on_first(stop: impl Fn() + Send + 'static) -> Result<()> {
    ctrlc::set_handler(move || {
        if HAPPENED.swap(true, Ordering::Relaxed) {
            std::process::exit(130);
        }
        stop();
    })
    .context("cannot listen for Ctrl-C")
}

/// True after the first one.
pub(crate) fn happened() -> bool {
    HAPPENED.load(Ordering::Relaxed)
}
