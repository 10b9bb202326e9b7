//! Ctrl-C: the first one asks the work to stop cleanly, the second ends the process.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

static HAPPENED: AtomicBool = AtomicBool::new(false);

/// Calls `stop` at the first Ctrl-C (or termination signal).
pub(crate) fn on_first(stop: impl Fn() + Send + 'static) -> Result<()> {
    let mut signals =
        Signals::new([SIGINT, SIGTERM, SIGHUP]).context("cannot listen for Ctrl-C")?;
    let listen = move || {
        for _ in signals.forever() {
            if HAPPENED.swap(true, Ordering::Relaxed) {
                end(crate::INTERRUPTED);
            }
            stop();
        }
    };
    spawn(listen)
}

/// Calls `handle` at every Ctrl-C, with false, and at every termination signal, with true.
pub(crate) fn on_each(handle: impl Fn(bool) + Send + 'static) -> Result<()> {
    let mut signals =
        Signals::new([SIGINT, SIGTERM, SIGHUP]).context("cannot listen for Ctrl-C")?;
    spawn(move || {
        for signal in signals.forever() {
            handle(signal != SIGINT);
        }
    })
}

/// Runs `listen` on a thread of its own.
pub(crate) fn spawn(listen: impl FnOnce() + Send + 'static) -> Result<()> {
    let thread = std::thread::Builder::new().name("signals".to_owned()).spawn(listen);
    thread.map(drop).context("cannot start a thread")
}

/// Ends the process at once with a status. No destructor of a static runs: MLX's threads may be in the
/// middle of a computation, and on NVIDIA GPUs MLX's caches may outlive the driver; both would crash.
pub(crate) fn end(status: u8) -> ! {
    signal_hook::low_level::exit(status.into())
}

/// Makes the process end with the status of an interruption.
pub(crate) fn note() {
    HAPPENED.store(true, Ordering::Relaxed);
}

/// Stops work after the first Ctrl-C.
pub(crate) fn flow() -> ControlFlow<()> {
    if happened() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
}

/// Returns true after the first Ctrl-C.
pub(crate) fn happened() -> bool {
    HAPPENED.load(Ordering::Relaxed)
}
