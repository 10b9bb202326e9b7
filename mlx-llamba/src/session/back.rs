//! Going back in a conversation: undo, regenerate, edit.

use super::transcript::{Entry, Part};
use super::{Reply, Session, refused};
use crate::decode::generation::Generation;
use crate::error::Result;

impl<'m> Session<'m> {
    /// Removes the last user message and all messages after it. Returns the number of messages
    /// removed.
    ///
    /// # Errors
    /// [`Error::Session`](crate::Error::Session) if there is no user message.
    pub fn undo(&mut self) -> Result<usize> {
        let entries = &self.transcript.entries;
        let Some(last) = entries.iter().rposition(|entry| entry.message.role == "user") else {
            return Err(refused("there is nothing to undo"));
        };
        let dropped = entries.len() - last;
        self.rewind(last)?;
        Ok(dropped)
    }

    /// Removes the last message, which must be the assistant's, and generates another reply. Without
    /// a seed, it draws new random numbers.
    ///
    /// # Errors
    /// [`Error::Session`](crate::Error::Session) if the last message is not the assistant's; those
    /// of [`reply`](Self::reply). The session is then unchanged.
    pub fn regenerate<'s>(&'s mut self, options: &Generation) -> Result<Reply<'s, 'm>> {
        let entries = &self.transcript.entries;
        if entries.last().is_none_or(|last| last.message.role != "assistant") {
            return Err(refused("there is no reply to regenerate"));
        }
        let before = self.clone();
        self.rewind(entries.len() - 1)?;
        self.context.position.rng = None;
        match self.next_reply(options) {
            Ok(work) => Ok(Reply::new(self, work, options)),
            Err(error) => {
                *self = before;
                Err(error)
            }
        }
    }

    /// Removes message `index` and all messages after it.
    ///
    /// # Errors
    /// [`Error::Session`](crate::Error::Session) if there is no such message.
    pub fn rewind(&mut self, index: usize) -> Result<()> {
        self.check(index)?;
        let start = self.transcript.start_of(index);
        // Messages that share their tokens with a removed one have to be read again.
        let kept: Vec<Entry> = self.transcript.entries[start..index]
            .iter()
            .map(|entry| Entry::new(entry.message.clone()))
            .collect();
        self.transcript.truncate(start);
        self.go_back(self.transcript.tokens_before(start));
        self.transcript.entries.extend(kept);
        Ok(())
    }

    /// Changes the text of a message. If it was read, the state goes back to the nearest snapshot
    /// before it, and the next reply reads the tokens from there on again; those of other messages
    /// stay the same.
    ///
    /// # Errors
    /// [`Error::Session`](crate::Error::Session) if there is no such message or the template gives it no tokens of its
    /// own; [`Error::Template`](crate::Error::Template) if the template refuses the new text. The session is then unchanged.
    pub fn edit(&mut self, index: usize, text: impl Into<String>) -> Result<()> {
        self.check(index)?;
        let mut changed = self.transcript.clone();
        let last = index + 1 == changed.entries.len();
        let entry = &mut changed.entries[index];
        entry.message.content = text.into();
        if !entry.read {
            self.transcript = changed;
            return Ok(());
        }
        if entry.sampled && entry.closing.is_none() && !last {
            return Err(refused("this message's tokens cannot be told from the next one's"));
        }
        let start = changed.start_of(index);
        let joined = |i: &usize| changed.entries.get(*i).is_some_and(|entry| entry.joined);
        let end = (index + 1..).find(|i| !joined(i)).unwrap_or(index + 1);
        for entry in &mut changed.entries[start..end] {
            entry.ids.clear();
        }
        for piece in changed.plan_part(start, end, false)? {
            // The end of the message before is committed already, unless it has yet to be read.
            match piece.part {
                Part::End(before) if changed.entries[before].closing.is_some() => {}
                _ => changed.commit(&piece),
            }
        }
        self.transcript = changed;
        self.go_back(self.transcript.tokens_before(start));
        Ok(())
    }

    fn check(&self, index: usize) -> Result<()> {
        let count = self.transcript.entries.len();
        if index < count {
            return Ok(());
        }
        Err(refused(&format!("there is no message {index}: there are {count}, counted from 0")))
    }

    /// Returns to the nearest snapshot at or before the first `tokens` tokens.
    fn go_back(&mut self, tokens: usize) {
        self.snapshots.truncate(tokens);
        if self.covered <= tokens {
            return;
        }
        let (covered, context) = match self.snapshots.before(tokens) {
            Some((covered, context)) => (covered, context.clone()),
            None => (0, self.start.clone()),
        };
        (self.covered, self.context) = (covered, context);
    }
}
