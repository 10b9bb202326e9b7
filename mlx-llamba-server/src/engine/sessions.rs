//! Conversations that are kept between requests, on the thread that owns their states.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::{Duration, Instant};

use axum::http::StatusCode;
use mlx_llamba::batch::RowRequest;
use mlx_llamba::{
    ChatOptions, Error, Generation, Llamba, Message, Session, SessionFile, SnapshotBudget,
    Template, Turn, TurnDraft,
};

use super::claim::Claim;
use super::job::SessionTurn;
use crate::options::Limits;
use crate::problem::Problem;

/// Snapshots that a session may keep, in states.
const SNAPSHOTS: usize = 16;

/// Sessions by their ids, which cannot be guessed: whoever knows one may use it.
pub(crate) struct Sessions<'m> {
    llamba: &'m Llamba,
    template: Option<&'m Template>,
    /// So many are kept, and those idle for so long make room for others.
    limit: usize,
    idle: Duration,
    kept: HashMap<String, Kept<'m>>,
    /// Requests that have had a session for themselves.
    claims: u64,
}

struct Kept<'m> {
    session: Session<'m>,
    /// The number of the request that has it for itself.
    claimed: Option<u64>,
    /// When it was last asked for.
    used: Instant,
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
    claim: Claim,
    session: Session<'m>,
    pub(super) turn: Turn,
}

impl<'m> Sessions<'m> {
    pub(super) fn new(llamba: &'m Llamba, template: Option<&'m Template>, limits: &Limits) -> Self {
        let one = llamba.model().config().state_bytes(4).max(1) * (1 + SNAPSHOTS);
        let limit = limits.sessions.min(limits.session_memory / one);
        let (idle, kept) = (limits.session_idle, HashMap::new());
        Self { llamba, template, limit, idle, kept, claims: 0 }
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

    pub(crate) fn import(&mut self, file: SessionFile) -> Result<View, Problem> {
        let session = Session::from_file(self.llamba, file).map_err(|e| Problem::session(&e))?;
        self.keep(session)
    }

    pub(crate) fn export(&mut self, id: &str) -> Result<SessionFile, Problem> {
        Ok(self.idle(id)?.to_file()?)
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

    /// Takes a session for one reply.
    pub(super) fn claim(&mut self, id: &str) -> Result<(u64, TurnDraft), Problem> {
        let draft = self.idle(id)?.draft();
        self.claims += 1;
        let number = self.claims;
        self.find(id)?.claimed = Some(number);
        Ok((number, draft))
    }

    /// Gives it back.
    pub(super) fn release(&mut self, id: &str, number: u64) {
        if let Some(kept) = self.kept.get_mut(id).filter(|kept| kept.claimed == Some(number)) {
            kept.claimed = None;
        }
    }

    /// Begins a reply. The session stays as it is until the reply has ended.
    pub(super) fn begin(
        &mut self,
        turn: SessionTurn,
        options: &Generation,
    ) -> Result<(Open<'m>, RowRequest), Problem> {
        let SessionTurn { claim, plan } = turn;
        let session = self.find(&claim.id)?.session.fork();
        let (turn, request) = session.begin(plan, options)?;
        Ok((Open { claim, session, turn }, request))
    }

    /// Ends a reply: whole, or as if it had never been.
    pub(super) fn end(&mut self, open: Open<'m>, whole: bool) -> Result<(), Error> {
        let Open { claim, mut session, turn } = open;
        if whole {
            session.settle(turn)?;
            // It may have been deleted meanwhile.
            if let Some(kept) = self.kept.get_mut(&claim.id) {
                kept.session = session;
            }
        }
        // Before its client hears of the end.
        self.release(&claim.id, claim.number);
        Ok(())
    }

    fn keep(&mut self, mut session: Session<'m>) -> Result<View, Problem> {
        let bytes = SNAPSHOTS * session.stats().state_bytes;
        if self.kept.len() >= self.limit {
            self.forget()?;
        }
        session.set_snapshot_budget(SnapshotBudget { bytes });
        let id = new_id();
        let view = view(&id, &session);
        self.kept.insert(id, Kept { session, claimed: None, used: Instant::now() });
        Ok(view)
    }

    /// Makes room: drops the session that was not asked for the longest, if that is long.
    fn forget(&mut self) -> Result<(), Problem> {
        let idle = self.kept.iter().filter(|(_, kept)| kept.claimed.is_none());
        let oldest =
            idle.min_by_key(|(_, kept)| kept.used).map(|(id, kept)| (id.clone(), kept.used));
        let (wait, count) = (self.idle, self.kept.len());
        let left = match &oldest {
            Some((_, used)) => wait.saturating_sub(used.elapsed()),
            None => wait,
        };
        match oldest {
            Some((id, _)) if left.is_zero() => {
                log::info!("forgot the session that was idle the longest, of {count}");
                self.kept.remove(&id);
                Ok(())
            }
            _ => {
                let message = format!(
                    "there are {count} sessions, as many as there is room for; delete one, or \
                     wait until one was idle for {} s",
                    wait.as_secs()
                );
                Err(Problem::busy(message, left.as_secs() + 1).code("too_many_sessions"))
            }
        }
    }

    fn find(&mut self, id: &str) -> Result<&mut Kept<'m>, Problem> {
        let kept = self.kept.get_mut(id).ok_or_else(|| unknown(id))?;
        kept.used = Instant::now();
        Ok(kept)
    }

    /// The session, unless a request has it for itself.
    fn idle(&mut self, id: &str) -> Result<&mut Session<'m>, Problem> {
        let kept = self.find(id)?;
        if kept.claimed.is_some() {
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
