//! Conversations that are kept between requests, on the model thread.

mod calls;
mod claim;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mlx_llamba::decode::batch::BatchRequest;
use mlx_llamba::session::{SessionFile, Turn, TurnDraft, TurnPlan};
use mlx_llamba::snapshots::SnapshotBudget;
use mlx_llamba::template::Json;
use mlx_llamba::{ChatOptions, Generation, Llamba, Message, Session, Template};

pub(crate) use claim::Claim;

use crate::error::{Error, Result};
use crate::options::Options;

/// Snapshots that a session may keep.
const SNAPSHOTS: usize = 16;

/// Bytes that a field of a message counts for.
const FIELD: usize = 256;

/// Sessions by their ids. An id cannot be guessed: whoever knows it may use the session.
pub(crate) struct Sessions<'m> {
    llamba: &'m Llamba,
    template: Option<&'m Template>,
    /// The number of sessions kept.
    limit: usize,
    /// Bytes for all of them, and the bytes of the states that each may have.
    memory: usize,
    states: usize,
    /// The time after which an idle session may be dropped for another one.
    idle: Duration,
    kept: HashMap<Name, Kept<'m>>,
    /// The number of claims so far.
    claims: u64,
}

/// A session of a tenant. To other tenants there is no such session.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Name {
    pub(crate) tenant: Arc<str>,
    pub(crate) id: String,
}

struct Kept<'m> {
    session: Session<'m>,
    /// The number of the claim on it.
    claimed: Option<u64>,
    /// The time of its last request.
    used: Instant,
}

/// A session as its users see it.
#[non_exhaustive]
#[derive(Debug, Clone)]
pub struct SessionView {
    /// The id, which gives access to the session: a secret.
    pub id: String,
    /// All messages.
    pub messages: Vec<Message>,
    /// The tools that it began with.
    pub tools: Option<Json>,
    /// Tokens read and generated.
    pub tokens: usize,
    /// Token counts at which there are states to rewind to.
    pub snapshots: Vec<usize>,
    /// Bytes of all its states.
    pub bytes: usize,
}

/// A reply that is being generated.
pub(crate) struct Open<'m> {
    claim: Claim,
    session: Session<'m>,
    pub(crate) turn: Turn,
}

impl<'m> Sessions<'m> {
    pub(crate) fn new(
        llamba: &'m Llamba,
        template: Option<&'m Template>,
        options: &Options,
    ) -> Self {
        let one = llamba.model().config().state_bytes(4).max(1) * (1 + SNAPSHOTS);
        let limit = options.sessions.min(options.session_memory / one);
        let (idle, kept, memory) = (options.session_idle, HashMap::new(), options.session_memory);
        Self { llamba, template, limit, memory, states: one, idle, kept, claims: 0 }
    }

    pub(crate) fn len(&self) -> usize {
        self.kept.len()
    }

    pub(crate) fn create(
        &mut self,
        tenant: Arc<str>,
        messages: Vec<Message>,
        options: ChatOptions,
    ) -> Result<SessionView> {
        let template = self.template.ok_or(Error::NoTemplate)?.clone();
        let mut session = self.llamba.session_with(template, options)?;
        for message in messages {
            session.push(message);
        }
        self.keep(tenant, session)
    }

    pub(crate) fn import(&mut self, tenant: Arc<str>, file: SessionFile) -> Result<SessionView> {
        let session =
            Session::from_file(self.llamba, file).map_err(|e| Error::SessionFile(Arc::new(e)))?;
        self.keep(tenant, session)
    }

    pub(crate) fn export(&mut self, name: &Name) -> Result<SessionFile> {
        Ok(self.idle(name)?.to_file()?)
    }

    pub(crate) fn view(&mut self, name: &Name) -> Result<SessionView> {
        let session = &self.find(name)?.session;
        Ok(view(&name.id, session))
    }

    pub(crate) fn tools(&mut self, name: &Name) -> Result<Option<Json>> {
        Ok(self.find(name)?.session.options().tools.clone())
    }

    pub(crate) fn fork(&mut self, name: &Name) -> Result<SessionView> {
        let fork = self.idle(name)?.fork();
        self.keep(name.tenant.clone(), fork)
    }

    pub(crate) fn rewind(&mut self, name: &Name, messages: usize) -> Result<SessionView> {
        let session = self.idle(name)?;
        // Keeping all messages changes nothing, and is allowed.
        if messages != session.messages().len() {
            session.rewind(messages).map_err(state)?;
        }
        Ok(view(&name.id, session))
    }

    pub(crate) fn undo(&mut self, name: &Name) -> Result<SessionView> {
        let session = self.idle(name)?;
        session.undo().map_err(state)?;
        Ok(view(&name.id, session))
    }

    pub(crate) fn delete(&mut self, name: &Name) -> Result<()> {
        self.kept.remove(name).map(drop).ok_or_else(|| unknown(&name.id))
    }

    /// Claims a session for one reply.
    pub(crate) fn claim(&mut self, name: &Name) -> Result<(u64, TurnDraft)> {
        self.find(name)?;
        // A session that has grown may take the place of an idle one.
        while self.bytes() > self.memory {
            self.forget()?;
        }
        let draft = self.idle(name)?.draft();
        self.claims += 1;
        let number = self.claims;
        self.find(name)?.claimed = Some(number);
        Ok((number, draft))
    }

    /// Ends a claim.
    pub(crate) fn release(&mut self, name: &Name, number: u64) {
        if let Some(kept) = self.kept.get_mut(name).filter(|kept| kept.claimed == Some(number)) {
            kept.claimed = None;
        }
    }

    /// Begins a reply. The session does not change until the reply has ended.
    pub(crate) fn begin(
        &mut self,
        claim: Claim,
        plan: TurnPlan,
        options: &Generation,
    ) -> Result<(Open<'m>, BatchRequest)> {
        let session = self.find(&claim.name)?.session.fork();
        let (turn, request) = session.begin(plan, options)?;
        Ok((Open { claim, session, turn }, request))
    }

    /// Ends a reply; one that is not `whole` is discarded.
    pub(crate) fn end(&mut self, open: Open<'m>, whole: bool) -> Result<()> {
        let Open { claim, mut session, turn } = open;
        if whole {
            session.settle(turn)?;
            // The session may have been deleted in the meantime.
            if let Some(kept) = self.kept.get_mut(&claim.name) {
                kept.session = session;
            }
        }
        // Before the client learns of the end: its next request must not find the session busy.
        self.release(&claim.name, claim.number);
        Ok(())
    }

    fn keep(&mut self, tenant: Arc<str>, mut session: Session<'m>) -> Result<SessionView> {
        let bytes = SNAPSHOTS * session.stats().state_bytes;
        let new = self.states + texts(&session);
        while self.kept.len() >= self.limit || self.bytes() + new > self.memory {
            if self.kept.is_empty() {
                return Err(Error::SessionTooLarge { bytes: new, limit: self.memory });
            }
            self.forget()?;
        }
        session.set_snapshot_budget(SnapshotBudget::default().bytes(bytes));
        let id = new_id()?;
        let view = view(&id, &session);
        self.kept
            .insert(Name { tenant, id }, Kept { session, claimed: None, used: Instant::now() });
        Ok(view)
    }

    /// Drops the session that was idle for the longest, if that was long enough.
    fn forget(&mut self) -> Result<()> {
        let idle = self.kept.iter().filter(|(_, kept)| kept.claimed.is_none());
        let oldest = idle.min_by_key(|(_, kept)| kept.used);
        let oldest = oldest.map(|(name, kept)| (name.clone(), kept.used.elapsed()));
        let (count, idle) = (self.kept.len(), self.idle);
        match oldest {
            Some((name, time)) if time >= idle => {
                log::info!("dropped the session that was idle for the longest, of {count}");
                self.kept.remove(&name);
                Ok(())
            }
            oldest => {
                let retry_after = oldest.map_or(idle, |(_, time)| idle - time);
                Err(Error::SessionsFull { count, idle, retry_after })
            }
        }
    }

    /// Bytes of the states that all sessions may have, and of their texts.
    fn bytes(&self) -> usize {
        self.kept.values().map(|kept| self.states + texts(&kept.session)).sum()
    }

    fn find(&mut self, name: &Name) -> Result<&mut Kept<'m>> {
        let kept = self.kept.get_mut(name).ok_or_else(|| unknown(&name.id))?;
        kept.used = Instant::now();
        Ok(kept)
    }

    /// Finds a session that no request has claimed.
    fn idle(&mut self, name: &Name) -> Result<&mut Session<'m>> {
        let kept = self.find(name)?;
        if kept.claimed.is_some() {
            return Err(Error::SessionBusy);
        }
        Ok(&mut kept.session)
    }
}

/// Bytes of a session's messages, as text and as tokens.
fn texts(session: &Session<'_>) -> usize {
    let messages = session.messages().map(|message| {
        let fields = message.fields.keys().map(|key| key.len() + FIELD);
        size_of::<Message>() + message.content.len() + fields.sum::<usize>()
    });
    messages.sum::<usize>() + size_of::<u32>() * session.stats().tokens
}

fn view(id: &str, session: &Session<'_>) -> SessionView {
    let stats = session.stats();
    SessionView {
        id: id.to_owned(),
        messages: session.messages().cloned().collect(),
        tools: session.options().tools.clone(),
        tokens: stats.tokens,
        bytes: stats.state_bytes + stats.snapshot_bytes,
        snapshots: stats.snapshots,
    }
}

fn state(error: mlx_llamba::Error) -> Error {
    Error::SessionState(Arc::new(error))
}

fn unknown(id: &str) -> Error {
    Error::UnknownSession { id: id.chars().take(64).collect() }
}

/// Returns an id of 128 random bits.
fn new_id() -> Result<String> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(Error::Random)?;
    Ok(format!("session-{:032x}", u128::from_ne_bytes(bytes)))
}
