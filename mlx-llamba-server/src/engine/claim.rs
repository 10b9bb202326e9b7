//! A session that a request has for itself.

use std::fmt;

use super::Engine;

/// Nothing else may happen to the session before this is dropped: with its request, however that
/// ends.
pub(crate) struct Claim {
    engine: Engine,
    pub(super) id: String,
    pub(super) number: u64,
}

impl Claim {
    pub(super) fn new(engine: Engine, id: String, number: u64) -> Self {
        Self { engine, id, number }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let (id, number) = (std::mem::take(&mut self.id), self.number);
        self.engine.tell(move |sessions| sessions.release(&id, number));
    }
}

impl fmt::Debug for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Claim").field(&self.number).finish()
    }
}
