//! Replies that a [`Batch`](crate::Batch) generates, beside those of other sessions.
//!
//! What a reply has to read takes a rendering of the conversation and the tokenizer, long for long
//! messages. So it is found apart from the states, on any thread: a [`TurnDraft`] becomes a
//! [`TurnPlan`], and that a [`Turn`].

use super::transcript::{Entry, Part, Transcript};
use super::{Session, Work, refused};
use crate::context::Context;
use crate::decode::batch::{BatchRequest, Step};
use crate::decode::generation::Generation;
use crate::error::Result;
use crate::template::Message;

/// A session's messages without its states.
#[derive(Debug, Clone)]
pub struct TurnDraft {
    transcript: Transcript,
    covered: usize,
}

/// What a reply has to read.
#[derive(Debug, Clone)]
pub struct TurnPlan {
    draft: TurnDraft,
    work: Vec<Work>,
}

/// A reply that is generated elsewhere. Feed it what the row does, then hand it back with
/// [`Session::settle`]; dropped, it has never been.
#[derive(Debug)]
pub struct Turn {
    plan: TurnPlan,
    /// How many tokens of the session it had yet to read.
    pending: usize,
    text: String,
    ids: Vec<u32>,
    snapshots: Vec<(usize, Context)>,
    end: Option<Context>,
}

impl TurnDraft {
    /// Adds a message.
    pub fn push(&mut self, message: Message) {
        self.transcript.entries.push(Entry::new(message));
    }

    /// Finds out what the reply has to read.
    ///
    /// # Errors
    /// Those of [`Session::reply`] but for impossible options.
    pub fn plan(self) -> Result<TurnPlan> {
        let work = self.transcript.next_reply(self.covered)?;
        Ok(TurnPlan { draft: self, work })
    }
}

impl TurnPlan {
    /// Tokens that are read for this reply.
    #[must_use]
    pub fn prompt_tokens(&self) -> usize {
        self.work.iter().map(|work| work.ids.len()).sum()
    }

    /// Tokens of the conversation that are not read again.
    #[must_use]
    pub fn kept_tokens(&self) -> usize {
        self.draft.covered
    }
}

impl Turn {
    /// Takes note of what the row did.
    pub fn note(&mut self, step: &Step) {
        match step {
            Step::Snapshot { read, context } => {
                let place = self.plan.draft.covered + read.saturating_sub(self.pending);
                self.snapshots.push((place, context.clone()));
            }
            Step::Token { text, id, .. } => {
                self.text.push_str(text);
                self.ids.push(*id);
            }
            Step::End { text, context, .. } => {
                self.text.push_str(text);
                self.end = Some(context.clone());
            }
            Step::Prefill { .. } => {}
        }
    }
}

impl Session<'_> {
    /// The messages so far, to which those can be added that are to be answered.
    #[must_use]
    pub fn draft(&self) -> TurnDraft {
        TurnDraft { transcript: self.transcript.clone(), covered: self.covered }
    }

    /// Asks for an answer as [`reply`](Self::reply) does, for a [`Batch`](crate::Batch) to
    /// generate. The session must be as it was when its draft was made.
    ///
    /// # Errors
    /// [`Error::Argument`](crate::Error::Argument) for an impossible option,
    /// [`Error::Session`](crate::Error::Session) if the session has changed since.
    pub fn begin(&self, plan: TurnPlan, options: &Generation) -> Result<(Turn, BatchRequest)> {
        options.validate(self.llamba.model().config().vocab_size)?;
        let (then, now) = (&plan.draft, &self.transcript.entries);
        if then.covered != self.covered || !then.transcript.entries.starts_with(now) {
            return Err(refused("the session has changed since the reply was planned"));
        }
        let pending = self.context.pending().len();
        let mut prompt = Vec::new();
        let mut snapshots = Vec::new();
        for work in &plan.work {
            prompt.extend(&work.ids);
            snapshots.push(pending + prompt.len());
        }
        // The end of the prompt is the beginning of the reply: nobody goes back to there.
        snapshots.pop();
        let mut request = BatchRequest::new(self.context.clone(), prompt, options.clone());
        request.snapshots = snapshots;
        let (text, ids, snapshots, end) = (String::new(), Vec::new(), Vec::new(), None);
        Ok((Turn { plan, pending, text, ids, snapshots, end }, request))
    }

    /// Makes messages of what the plan added and of a reply that has ended. The session must be
    /// as it was, or a copy of what it was, when the turn began. Gives nothing if no token was
    /// generated; then nothing has changed.
    ///
    /// # Errors
    /// [`Error::Mlx`](crate::Error::Mlx) if the state cannot be computed.
    pub fn settle(&mut self, turn: Turn) -> Result<Option<Message>> {
        let (Some(context), false) = (turn.end, turn.ids.is_empty()) else { return Ok(None) };
        // It can be a view of the state of a whole batch.
        let context = Context { state: context.state.row(0)?, ..context };
        context.state.eval()?;
        let TurnPlan { draft, work } = turn.plan;
        self.transcript = draft.transcript;
        let mut ids = Vec::new();
        for piece in work.iter().flat_map(|work| &work.new) {
            self.transcript.commit(piece);
            if piece.part == Part::Reply {
                ids.clone_from(&piece.ids);
            }
        }
        for (place, context) in &turn.snapshots {
            self.snapshots.insert(*place, context)?;
        }
        let beginning = ids.len();
        self.covered = draft.covered + work.iter().map(|work| work.ids.len()).sum::<usize>();
        self.covered -= beginning;
        ids.extend(turn.ids);
        self.push_reply(ids, turn.text, context).map(Some)
    }
}
