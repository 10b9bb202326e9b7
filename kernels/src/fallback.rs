//! A record of the operations for which plain MLX operations ran in place of a kernel.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

/// The name of plain MLX operations in messages.
pub(crate) const PLAIN: &str = "plain MLX operations";

/// Messages so far in this process, each once.
static FALLBACKS: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

/// Records and logs that plain operations take the place of a kernel.
pub(crate) fn log_fallback(operation: &'static str, reason: &str) {
    let message = format!("{operation} in {PLAIN}, because {reason}");
    let mut known = FALLBACKS.lock().unwrap_or_else(PoisonError::into_inner);
    if !known.contains(&message) {
        log::info!("{message}");
        known.insert(message);
    }
}

/// Returns the messages so far.
pub(crate) fn fallbacks() -> Vec<String> {
    FALLBACKS.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
}
