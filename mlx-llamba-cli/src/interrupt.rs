//! Ctrl-C: the first one asks the work to end in good order, the second ends the process.

use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

static HAPPENED: AtomicBool = AtomicBool::new(false);

/// Calls `stop` at the first Ctrl-C (or termination signal).
pub(crate) fn on_first(stop: impl Fn() + Send + 'static) -> Result<()> {
    let mut signals =
        Signals::new([SIGINT, SIGTERM, SIGHUP]).context("cannot listen for Ctrl-C")?;
    std::thread::spawn(move || {
        for _ in signals.forever() {
            if HAPPENED.swap(true, Ordering::Relaxed) {
                std::process::exit(130);
            }
            stop();
        }
    });
    Ok(())
}

/// True after the first one.
pub(crate) fn happened() -> bool {
    HAPPENED.load(Ordering::Relaxed)
}
