//! Ctrl-C and termination signals in a conversation.

use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Result;
use mlx_llamba::Cancel;

use crate::interrupt;

/// The reply being written, which Ctrl-C stops.
#[derive(Clone, Default)]
pub(super) struct Running(Arc<Mutex<Signals>>);

#[derive(Default)]
struct Signals {
    reply: Option<Cancel>,
    /// Input comes from a terminal, where Ctrl-C does not end the process.
    person: bool,
    /// A reply was stopped.
    stopped: bool,
    /// The process was told to end.
    ended: bool,
}

impl Running {
    /// Stops the reply at Ctrl-C. Without one, and at other signals, ends the process.
    pub(super) fn listen(&self) -> Result<()> {
        let running = self.clone();
        interrupt::on_each(move |end| {
            let mut signals = running.0.lock().unwrap_or_else(PoisonError::into_inner);
            match signals.reply.take() {
                Some(reply) => reply.cancel(),
                // Pressed once too often, it must not lose the conversation.
                None if signals.person && !end => return,
                None => interrupt::end(crate::INTERRUPTED),
            }
            (signals.stopped, signals.ended) = (true, signals.ended | end);
            if signals.ended || !signals.person {
                interrupt::give_up_writes();
            }
        })
    }

    /// Marks the beginning of the conversation. From here on Ctrl-C only ends replies, if a
    /// `person` presses it.
    pub(super) fn begin(&self, person: bool) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).person = person;
    }

    pub(super) fn set(&self, reply: Option<Cancel>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).reply = reply;
    }

    /// Returns true if a signal ended the conversation.
    pub(super) fn over(&self) -> bool {
        let signals = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        signals.ended || (signals.stopped && !signals.person)
    }
}
