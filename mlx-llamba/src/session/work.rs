//! The tokens that a conversation has yet to read.

use super::refused;
use super::transcript::{Part, Piece, Transcript};
use crate::error::Result;

/// Tokens to read together: those of a message that was read before, or of new pieces.
#[derive(Debug, Clone, Default)]
pub(super) struct Work {
    pub(super) ids: Vec<u32>,
    pub(super) new: Vec<Piece>,
}

impl Transcript {
    /// The tokens of all messages that a state after `covered` tokens has yet to read.
    pub(super) fn unread(&self, covered: usize) -> Result<Vec<Work>> {
        let mut work = self.backlog(covered);
        if self.read() < self.entries.len() {
            work.extend(gather(self.plan(false)?));
        }
        Ok(work)
    }

    /// The same for the next reply. The last entry is the beginning of the reply.
    pub(super) fn next_reply(&self, covered: usize) -> Result<Vec<Work>> {
        let Some(last) = self.entries.last() else {
            return Err(refused("there is no message to answer"));
        };
        if last.sampled && last.closing.is_none() {
            return Err(refused("the last message is the assistant's own: push another one first"));
        }
        let mut work = self.backlog(covered);
        work.extend(gather(self.plan(true)?));
        Ok(work)
    }

    /// The tokens of read messages after the first `covered`, message by message.
    fn backlog(&self, covered: usize) -> Vec<Work> {
        let (mut work, mut place) = (Vec::new(), 0);
        for entry in &self.entries {
            let end = place + entry.ids.len();
            if end > covered {
                let from = covered.max(place) - place;
                work.push(Work { ids: entry.ids[from..].to_vec(), new: Vec::new() });
            }
            place = end;
        }
        work
    }
}

/// Groups new pieces: the end of a reply is read together with the piece after it.
fn gather(pieces: Vec<Piece>) -> Vec<Work> {
    let (mut all, mut next) = (Vec::new(), Work::default());
    for piece in pieces {
        next.ids.extend(&piece.ids);
        let goes_on = matches!(piece.part, Part::End(_));
        next.new.push(piece);
        if !goes_on {
            all.push(std::mem::take(&mut next));
        }
    }
    all
}
