//! Replies that a [`Batch`](crate::Batch) generates, beside those of other sessions.

use super::transcript::Part;
use super::{Session, Work};
use crate::batch::{RowRequest, RowStep};
use crate::context::Context;
use crate::error::Result;
use crate::generation::Generation;
use crate::template::Message;

/// A reply that is generated elsewhere. Feed it what the row does, then hand it back with
/// [`Session::settle`]; dropped, it has never been.
#[derive(Debug)]
pub struct Turn {
    work: Vec<Work>,
    /// Tokens of the session when the turn began, and how many of them it had yet to read.
    covered: usize,
    pending: usize,
    text: String,
    ids: Vec<u32>,
    snapshots: Vec<(usize, Context)>,
    end: Option<Context>,
}

impl Turn {
    /// Tokens that are read for this reply.
    #[must_use]
    pub fn prompt_tokens(&self) -> usize {
        self.work.iter().map(|work| work.ids.len()).sum()
    }

    /// Tokens of the conversation that are not read again.
    #[must_use]
    pub fn kept_tokens(&self) -> usize {
        self.covered
    }

    /// Takes note of what the row did.
    pub fn note(&mut self, step: &RowStep) {
        match step {
            RowStep::Snapshot { read, context } => {
                let place = self.covered + read.saturating_sub(self.pending);
                self.snapshots.push((place, context.clone()));
            }
            RowStep::Token { text, id, .. } => {
                self.text.push_str(text);
                self.ids.push(*id);
            }
            RowStep::End { text, context, .. } => {
                self.text.push_str(text);
                self.end = Some(context.clone());
            }
            RowStep::Read { .. } => {}
        }
    }
}

impl Session<'_> {
    /// Asks for an answer as [`reply`](Self::reply) does, for a [`Batch`](crate::Batch) to
    /// generate.
    ///
    /// # Errors
    /// As [`reply`](Self::reply).
    pub fn turn(&self, options: &Generation) -> Result<(Turn, RowRequest)> {
        let work = self.next_reply(options)?;
        let pending = self.context.pending.len();
        let mut prompt = Vec::new();
        let mut snapshots = Vec::new();
        for work in &work {
            prompt.extend(&work.ids);
            snapshots.push(pending + prompt.len());
        }
        // The end of the prompt is the beginning of the reply: nobody goes back to there.
        snapshots.pop();
        let mut request = RowRequest::new(self.context.clone(), prompt, options.clone());
        request.snapshots = snapshots;
        let turn = Turn {
            work,
            covered: self.covered,
            pending,
            text: String::new(),
            ids: Vec::new(),
            snapshots: Vec::new(),
            end: None,
        };
        Ok((turn, request))
    }

    /// Makes a message of a reply that has ended. The session must be as it was, or a copy of
    /// what it was, when the turn began. Gives nothing if no token was generated; then nothing
    /// has changed.
    ///
    /// # Errors
    /// [`Error::Mlx`](crate::Error::Mlx) if the state cannot be computed.
    pub fn settle(&mut self, turn: Turn) -> Result<Option<Message>> {
        let (Some(context), false) = (turn.end, turn.ids.is_empty()) else { return Ok(None) };
        // It can be a view of the state of a whole batch.
        let context = Context { state: context.state.row(0)?, ..context };
        context.state.eval()?;
        let mut ids = Vec::new();
        for piece in turn.work.iter().flat_map(|work| &work.new) {
            self.transcript.commit(piece);
            if piece.part == Part::Reply {
                ids.clone_from(&piece.ids);
            }
        }
        for (place, context) in &turn.snapshots {
            self.snapshots.insert(*place, context)?;
        }
        let beginning = ids.len();
        self.covered = turn.covered + turn.work.iter().map(|work| work.ids.len()).sum::<usize>();
        self.covered -= beginning;
        ids.extend(turn.ids);
        self.push_reply(ids, turn.text, context).map(Some)
    }
}
