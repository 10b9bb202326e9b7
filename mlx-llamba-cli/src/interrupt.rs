//! Ctrl-C and termination signals: the first one ends the process, unless the command has work to finish;
//! then the second one does.

use std::ffi::c_int;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use anyhow::{Context, Result};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::flag::register_conditional_shutdown;
use signal_hook::iterator::Signals;

static HAPPENED: AtomicBool = AtomicBool::new(false);
/// True until the command has work to finish.
static AT_ONCE: LazyLock<Arc<AtomicBool>> = LazyLock::new(|| Arc::new(AtomicBool::new(true)));
/// Counts the beginnings and the ends of writes to standard output: odd during a write.
static WRITES: AtomicU64 = AtomicU64::new(0);
/// The time after which a write that nobody reads is given up, once the process was told to end.
const PATIENCE: Duration = Duration::from_secs(1);

/// Lets the first Ctrl-C or termination signal end the process, whatever it waits for: a file, a
/// download, a lock. Without a handler it would not end the first process of a container.
pub(crate) fn end_at_once() -> Result<()> {
    for signal in wanted(&[SIGINT, SIGTERM]) {
        register_conditional_shutdown(signal, crate::INTERRUPTED.into(), Arc::clone(&AT_ONCE))
            .context("cannot listen for Ctrl-C")?;
    }
    Ok(())
}

/// Returns those of the signals that the process was not told to ignore: `nohup`, and shells that start
/// a command in the background, ask for that before the process begins.
pub(crate) fn wanted(signals: &[c_int]) -> Vec<c_int> {
    let is_ignored = |signal: c_int| {
        // SAFETY: zeros are a valid `sigaction`, and `old` is a valid place to write to. Nothing is
        // changed without a new action.
        unsafe {
            let mut old: libc::sigaction = std::mem::zeroed();
            libc::sigaction(signal, std::ptr::null(), &raw mut old) == 0
                && old.sa_sigaction == libc::SIG_IGN
        }
    };
    signals.iter().copied().filter(|signal| !is_ignored(*signal)).collect()
}

/// Lets the command handle signals itself: it has work to finish.
pub(crate) fn handled() {
    AT_ONCE.store(false, Ordering::Relaxed);
}

/// Calls `stop` at the first Ctrl-C (or termination signal).
pub(crate) fn on_first(stop: impl Fn() + Send + 'static) -> Result<()> {
    on_each(move |_| {
        if HAPPENED.swap(true, Ordering::Relaxed) {
            end(crate::INTERRUPTED);
        }
        give_up_writes();
        stop();
    })
}

/// Calls `handle` at every Ctrl-C, with false, and at every termination signal, with true.
pub(crate) fn on_each(handle: impl Fn(bool) + Send + 'static) -> Result<()> {
    let mut signals =
        Signals::new(wanted(&[SIGINT, SIGTERM, SIGHUP])).context("cannot listen for Ctrl-C")?;
    spawn(move || {
        for signal in signals.forever() {
            handle(signal != SIGINT);
        }
    })?;
    handled();
    Ok(())
}

/// Runs a write to standard output.
pub(crate) fn while_writing<T>(write: impl FnOnce() -> T) -> T {
    WRITES.fetch_add(1, Ordering::Relaxed);
    let written = write();
    WRITES.fetch_add(1, Ordering::Relaxed);
    written
}

/// From now on ends the process if a write waits for a reader that does not come.
pub(crate) fn give_up_writes() {
    // Without a thread to watch, the next signal still ends the process.
    let _ = spawn(|| {
        loop {
            let before = WRITES.load(Ordering::Relaxed);
            std::thread::sleep(PATIENCE);
            if before % 2 == 1 && WRITES.load(Ordering::Relaxed) == before {
                end(crate::INTERRUPTED);
            }
        }
    });
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
