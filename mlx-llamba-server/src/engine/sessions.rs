//! Conversations that are kept between requests, on the thread that owns their states.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hasher, RandomState};

use axum::http::StatusCode;
use mlx_llamba::batch::RowRequest;
use mlx_llamba::{
    ChatOptions, Error, Generation, Llamba, Message, Session, SnapshotBudget, Template, Turn,
};

use crate::problem::Problem;

/// Snapshots that a session may keep, in states.
const SNAPSHOTS: usize = 16;

/// Sessions by their ids, which cannot be guessed: whoever knows one may use it.
pub(crate) struct Sessions<'m> {
    llamba: &'m Llamba,
    template: Option<&'m Template>,
    limit: usize,
    kept: HashMap<String, Kept<'m>>,
}

struct Kept<'m> {
    session: Session<'m>,
    /// A reply is being generated; until it has ended, nothing else may happen to the session.
    busy: bool,
}

/// What there is to tell of a session.
#[derive(Debug)]
pub(crate) struct View {
    pub(crate) id: String,
    pub(crate) messages: Vec<Message>,
    pub(crate) tokens: usize,
    pub(crate) snapshots: Vec<usize>,
    pub(crate) bytes: usize,
}

/// A reply of a session that is being generated.
pub(super) struct Open<'m> {
    id: String,
    session: Session<'m>,
    pub(super) turn: Turn,
}

impl<'m> Sessions<'m> {
    pub(super) fn new(llamba: &'m Llamba, template: Option<&'m Template>, limit: usize) -> Self {
        Self { llamba, template, limit, kept: HashMap::new() }
    }

    pub(super) fn len(&self) -> usize {
        self.kept.len()
    }

    pub(crate) fn create(
        &mut self,
        messages: Vec<Message>,
        options: ChatOptions,
    ) -> Result<View, Problem> {
        let template = self.template.ok_or_else(Problem::no_template)?.clone();
        let mut session = self.llamba.session_with(template, options)?;
        for message in messages {
            session.push(message);
        }
        self.keep(session)
    }

    pub(crate) fn import(&mut self, bytes: &[u8]) -> Result<View, Problem> {
        let session = Session::from_bytes(self.llamba, bytes, "sent")
            .map_err(|error| Problem::bad(error.to_string()).code("bad_session"))?;
        self.keep(session)
    }

    pub(crate) fn export(&mut self, id: &str) -> Result<Vec<u8>, Problem> {
        Ok(self.idle(id)?.to_bytes()?)
    }

    pub(crate) fn view(&mut self, id: &str) -> Result<View, Problem> {
        let session = &self.find(id)?.session;
        Ok(view(id, session))
    }

    pub(crate) fn fork(&mut self, id: &str) -> Result<View, Problem> {
        let fork = self.idle(id)?.fork();
        self.keep(fork)
    }

    pub(crate) fn rewind(&mut self, id: &str, messages: usize) -> Result<View, Problem> {
        let session = self.idle(id)?;
        // To keep all of them is no mistake.
        if messages != session.messages().len() {
            session.rewind(messages).map_err(|e| conflict(&e).param("messages"))?;
        }
        Ok(view(id, session))
    }

    pub(crate) fn undo(&mut self, id: &str) -> Result<View, Problem> {
        let session = self.idle(id)?;
        session.undo().map_err(|e| conflict(&e))?;
        Ok(view(id, session))
    }

    pub(crate) fn delete(&mut self, id: &str) -> Result<(), Problem> {
        self.kept.remove(id).map(drop).ok_or_else(|| unknown(id))
    }

    /// Begins a reply to `messages`. The session stays as it is until the reply has ended.
    pub(super) fn begin(
        &mut self,
        id: &str,
        messages: &[Message],
        options: &Generation,
    ) -> Result<(Open<'m>, RowRequest), Problem> {
        let mut session = self.idle(id)?.fork();
        for message in messages {
            session.push(message.clone());
        }
        let (turn, request) = session.turn(options).map_err(|error| match error {
            Error::Session { .. } => Problem::parameter("messages", error),
            _ => error.into(),
        })?;
        self.find(id)?.busy = true;
        Ok((Open { id: id.to_owned(), session, turn }, request))
    }

    /// Ends a reply: whole, or as if it had never been.
    pub(super) fn end(&mut self, open: Open<'m>, whole: bool) -> Result<(), Error> {
        let Open { id, mut session, turn } = open;
        let settled = if whole { session.settle(turn).map(|_| true) } else { Ok(false) };
        // It may have been deleted meanwhile.
        if let Some(kept) = self.kept.get_mut(&id) {
            kept.busy = false;
            if settled? {
                kept.session = session;
            }
        }
        Ok(())
    }

    fn keep(&mut self, mut session: Session<'m>) -> Result<View, Problem> {
        if self.kept.len() >= self.limit {
            let message = format!("there are {} sessions, as many as allowed", self.limit);
            return Err(Problem::busy(message, 60).code("too_many_sessions"));
        }
        let bytes = SNAPSHOTS * session.stats().state_bytes;
        session.set_snapshot_budget(SnapshotBudget { bytes });
        let id = new_id();
        let view = view(&id, &session);
        self.kept.insert(id, Kept { session, busy: false });
        Ok(view)
    }

    fn find(&mut self, id: &str) -> Result<&mut Kept<'m>, Problem> {
        self.kept.get_mut(id).ok_or_else(|| unknown(id))
    }

    /// The session, unless a reply is being generated.
    fn idle(&mut self, id: &str) -> Result<&mut Session<'m>, Problem> {
        let kept = self.find(id)?;
        if kept.busy {
            let message = "a reply is being generated; wait for its end";
            return Err(Problem::new(StatusCode::CONFLICT, message).code("session_busy"));
        }
        Ok(&mut kept.session)
    }
}

fn view(id: &str, session: &Session<'_>) -> View {
    let stats = session.stats();
    View {
        id: id.to_owned(),
        messages: session.messages().cloned().collect(),
        tokens: stats.tokens,
        bytes: stats.state_bytes + stats.snapshot_bytes,
        snapshots: stats.snapshots,
    }
}

/// What is asked for makes no sense in the place where the session is.
fn conflict(error: &Error) -> Problem {
    Problem::new(StatusCode::CONFLICT, error.to_string()).code("impossible")
}

fn unknown(id: &str) -> Problem {
    let shown: String = id.chars().take(64).collect();
    Problem::not_found(format!("no session {shown:?}"), "session_not_found").param("id")
}

/// 128 bits out of the system's randomness.
fn new_id() -> String {
    let half = || RandomState::new().build_hasher().finish();
    format!("session-{:016x}{:016x}", half(), half())
}
