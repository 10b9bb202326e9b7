//! Going back in a conversation: undo, another reply, other words.

use super::transcript::{Entry, Part};
use super::{Reply, Session, refused};
use crate::decode::generation::Generation;
use crate::error::Result;

impl<'m> Session<'m> {
    /// Drops the last message of the user and all that follows it. Gives the number of messages
    /// dropped.
    ///
    /// # Errors
    /// [`Error::Session`](crate::Error::Session) if the user has said nothing.
    pub fn undo(&mut self) -> Result<usize> {
        let entries = &self.transcript.entries;
        let Some(last) = entries.iter().rposition(|entry| entry.message.role == "user") else {
            return Err(refused("there is nothing to undo"));
        };
        let dropped = entries.len() - last;
        self.rewind(last)?;
        Ok(dropped)
    }

    /// Drops the last message if it is the assistant's and answers anew. Without a seed, the
    /// random numbers are others.
    ///
    /// # Errors
    /// [`Error::Session`](crate::Error::Session) if the last message is not the assistant's; those
    /// of [`reply`](Self::reply). Then nothing has changed.
    pub fn regenerate<'s>(&'s mut self, options: &Generation) -> Result<Reply<'s, 'm>> {
        let entries = &self.transcript.entries;
        if entries.last().is_none_or(|last| last.message.role != "assistant") {
            return Err(refused("there is no reply to write anew"));
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

    /// Drops message `index` and all that follow it.
    ///
    /// # Errors
    /// [`Error::Session`](crate::Error::Session) if there is no such message.
    pub fn rewind(&mut self, index: usize) -> Result<()> {
        self.check(index)?;
        let start = self.transcript.start_of(index);
        // Messages whose tokens are together with a dropped one's have to be read again.
        let kept: Vec<Entry> = self.transcript.entries[start..index]
            .iter()
            .map(|entry| Entry::new(entry.message.clone()))
            .collect();
        self.transcript.truncate(start);
        self.go_back(self.transcript.tokens_before(start));
        self.transcript.entries.extend(kept);
        Ok(())
    }

    /// Changes the text of a message and keeps all others. If it was read, the state goes back to
    /// the nearest snapshot before it; with the next reply, what follows from there is read
    /// again, the other messages with the tokens they have.
    ///
    /// # Errors
    /// [`Error::Session`](crate::Error::Session) if there is no such message or the template gives it no tokens of its
    /// own; [`Error::Template`](crate::Error::Template) if the template refuses the new text. Then nothing has changed.
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
            // The end of the message before is known, unless the model has yet to read it.
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

    /// Returns to the nearest place at or before the first `tokens` tokens.
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
