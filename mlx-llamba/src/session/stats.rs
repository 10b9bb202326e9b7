//! Counts and sizes of a session.

use serde::Serialize;

use super::Session;

/// Counts and sizes of a session.
#[non_exhaustive]
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SessionStats {
    /// The number of messages, unread ones included.
    pub messages: usize,
    /// The number of tokens of the conversation, read and sampled.
    pub tokens: usize,
    /// The number of tokens read for this session since it was created or loaded. It exceeds that
    /// of the conversation only after edits and regenerated replies.
    pub tokens_read: u64,
    /// The numbers of tokens before the snapshots.
    pub snapshots: Vec<usize>,
    /// The size of the snapshots in bytes.
    pub snapshot_bytes: usize,
    /// The budget for snapshots in bytes.
    pub snapshot_budget: usize,
    /// The size of the state in bytes.
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
