//! Replies that a [`Batch`](crate::Batch) generates together with those of other sessions.
//!
//! To find the tokens that a reply has to read, the conversation is rendered and tokenized, which
//! takes long for long messages. This is done without the state, on any thread: a [`TurnDraft`]
//! becomes a [`TurnPlan`], and then a [`Turn`].

use super::transcript::{Entry, Part, Transcript};
use super::{Session, Work, refused};
use crate::context::Context;
use crate::decode::batch::{BatchRequest, Step};
use crate::decode::generation::Generation;
use crate::error::Result;
use crate::template::Message;

/// The messages of a session without its states.
#[derive(Debug, Clone)]
pub struct TurnDraft {
    transcript: Transcript,
    covered: usize,
}

/// The tokens that a reply has to read.
#[derive(Debug, Clone)]
pub struct TurnPlan {
    draft: TurnDraft,
    work: Vec<Work>,
}

/// A reply that a batch generates. Pass it the steps of its request with [`note`](Self::note), then
/// add it to the session with [`Session::settle`]. Dropping it discards the reply.
#[derive(Debug)]
pub struct Turn {
    plan: TurnPlan,
    /// The number of tokens that were pending in the session.
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

    /// Determines the tokens that the reply has to read.
    ///
    /// # Errors
    /// Those of [`Session::reply`] but for impossible options.
    pub fn plan(self) -> Result<TurnPlan> {
        let work = self.transcript.next_reply(self.covered)?;
        Ok(TurnPlan { draft: self, work })
    }
}

impl TurnPlan {
    /// The number of tokens that are read for this reply.
    #[must_use]
    pub fn prompt_tokens(&self) -> usize {
        self.work.iter().map(|work| work.ids.len()).sum()
    }

    /// The number of tokens of the conversation that are not read again.
    #[must_use]
    pub fn kept_tokens(&self) -> usize {
        self.draft.covered
    }
}

impl Turn {
    /// Processes a step of the request.
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
    /// Returns the messages so far, to which the messages to answer can be added.
    #[must_use]
    pub fn draft(&self) -> TurnDraft {
        TurnDraft { transcript: self.transcript.clone(), covered: self.covered }
    }

    /// Starts a reply as [`reply`](Self::reply) does, for a [`Batch`](crate::Batch) to generate. The
    /// session must be as it was when its draft was created.
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
        // The last snapshot would be within the reply, to which one never goes back.
        snapshots.pop();
        let mut request = BatchRequest::new(self.context.clone(), prompt, options.clone());
        request.snapshots = snapshots;
        let (text, ids, snapshots, end) = (String::new(), Vec::new(), Vec::new(), None);
        Ok((Turn { plan, pending, text, ids, snapshots, end }, request))
    }

    /// Adds the messages of the plan and the reply, which has ended. The session must be as it was
    /// when the turn began, or a copy of that. Returns `None` if no token was generated; the session
    /// is then unchanged.
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
