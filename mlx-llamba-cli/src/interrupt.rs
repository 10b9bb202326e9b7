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
                std::process::exit(crate::INTERRUPTED.into());
            }
            stop();
        }
    });
    Ok(())
}

/// Calls `handle` at every Ctrl-C, with false, and at every termination signal, with true.
pub(crate) fn on_each(handle: impl Fn(bool) + Send + 'static) -> Result<()> {
    let mut signals =
        Signals::new([SIGINT, SIGTERM, SIGHUP]).context("cannot listen for Ctrl-C")?;
    std::thread::spawn(move || {
        for signal in signals.forever() {
            handle(signal != SIGINT);
        }
    });
    Ok(())
}

/// Makes the process end as interrupted.
pub(crate) fn note() {
    HAPPENED.store(true, Ordering::Relaxed);
}

/// True after the first one.
pub(crate) fn happened() -> bool {
    HAPPENED.load(Ordering::Relaxed)
}
