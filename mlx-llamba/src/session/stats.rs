//! Counts and sizes of a session.

use serde::Serialize;

use super::Session;

/// Counts and sizes of a session.
#[non_exhaustive]
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SessionStats {
    /// Messages, those not yet read included.
    pub messages: usize,
    /// Tokens of the conversation, read and sampled.
    pub tokens: usize,
    /// Tokens that the model has read for this session since it was made or loaded; more than
    /// the conversation has only where text was edited or regenerated.
    pub tokens_read: u64,
    /// After how many tokens there are snapshots.
    pub snapshots: Vec<usize>,
    /// Bytes of the snapshots.
    pub snapshot_bytes: usize,
    /// Bytes that the snapshots may take.
    pub snapshot_budget: usize,
    /// Bytes of the state.
    pub state_bytes: usize,
}

impl Session<'_> {
    /// Counts and sizes.
    #[must_use]
    pub fn stats(&self) -> SessionStats {
        SessionStats {
            messages: self.transcript.entries.len(),
            tokens: self.transcript.tokens_before(self.transcript.entries.len()),
            tokens_read: self.tokens_read,
            snapshots: self.snapshots.places().collect(),
            snapshot_bytes: self.snapshots.bytes(),
            snapshot_budget: self.snapshots.budget().bytes,
            state_bytes: self.context.state.nbytes(),
        }
    }
}
