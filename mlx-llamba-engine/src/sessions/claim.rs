//! The exclusive use of a session by one request.

use std::fmt;
use std::sync::mpsc::Sender;

use super::Name;
use crate::command::Command;

/// Keeps others from using a session until it is dropped: with its request, however that ends.
pub(crate) struct Claim {
    commands: Sender<Command>,
    pub(crate) name: Name,
    pub(crate) number: u64,
}

impl Claim {
    pub(crate) fn new(commands: Sender<Command>, name: Name, number: u64) -> Self {
        Self { commands, name, number }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let (name, number) = (self.name.clone(), self.number);
        let release = Command::Sessions(Box::new(move |sessions| sessions.release(&name, number)));
        // Without a model thread there are no sessions.
        let _ = self.commands.send(release);
    }
}

impl fmt::Debug for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Claim").field(&self.number).finish()
    }
}
