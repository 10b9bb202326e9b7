//! Ctrl-C in a conversation.

use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Result;
use mlx_llamba::Cancel;

use crate::interrupt;

/// The reply under way, for Ctrl-C to stop.
#[derive(Clone, Default)]
pub(super) struct Running(Arc<Mutex<Signals>>);

#[derive(Default)]
struct Signals {
    reply: Option<Cancel>,
    /// A person talks, to whom Ctrl-C is no end.
    person: bool,
    /// A reply was stopped; the process was told to end.
    stopped: bool,
    ended: bool,
}

impl Running {
    /// Stops replies at Ctrl-C. Without one under way, and at other signals, ends the process.
    pub(super) fn listen(&self) -> Result<()> {
        let running = self.clone();
        interrupt::on_each(move |end| {
            let mut signals = running.0.lock().unwrap_or_else(PoisonError::into_inner);
            match signals.reply.take() {
                Some(reply) => reply.cancel(),
                // Pressed once too often, it must not lose what was said.
                None if signals.person && !end => return,
                None => interrupt::end(),
            }
            (signals.stopped, signals.ended) = (true, signals.ended | end);
        })
    }

    /// The conversation begins. From here on Ctrl-C ends nothing but replies, if a `person`
    /// presses it.
    pub(super) fn begin(&self, person: bool) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).person = person;
    }

    pub(super) fn set(&self, reply: Option<Cancel>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).reply = reply;
    }

    /// Whether a signal ended the conversation.
    pub(super) fn over(&self) -> bool {
        let signals = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        signals.ended || (signals.stopped && !signals.person)
    }
}
