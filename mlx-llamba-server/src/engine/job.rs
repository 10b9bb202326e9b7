//! What a request asks of the model thread, and what it gets back.

use std::time::Instant;

use mlx_llamba::{Cancel, Generation, Reason, TokenLogprobs, TurnPlan};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::claim::Claim;
use crate::problem::Problem;

/// One prompt and how to go on from it.
#[derive(Debug)]
pub(crate) struct Job {
    /// Whose: clients take turns.
    pub(crate) client: String,
    /// Tokens to read; a session knows its own.
    pub(crate) prompt: Vec<u32>,
    /// The session that goes on.
    pub(crate) session: Option<SessionTurn>,
    /// What is generated is likely to be the beginning of a later prompt.
    pub(crate) keep: bool,
    /// How to go on.
    pub(crate) options: Generation,
    /// So many continuations.
    pub(crate) choices: usize,
    /// Report log-probabilities of the prompt.
    pub(crate) prompt_logprobs: bool,
    /// End then, finished or not.
    pub(crate) deadline: Instant,
}

/// The next reply of a session.
#[derive(Debug)]
pub(crate) struct SessionTurn {
    pub(crate) claim: Claim,
    pub(crate) plan: TurnPlan,
}

/// What becomes of a job, in order; several continuations in any order among them.
#[derive(Debug)]
pub(crate) enum Reply {
    /// Its turn has come; so many tokens of the prompt are known already.
    Started { prompt: usize, cached: usize },
    /// A piece of the prompt was read.
    Read { logprobs: Vec<TokenLogprobs> },
    /// A token.
    Token { choice: usize, text: String, id: u32, logprobs: Option<TokenLogprobs> },
    /// The end of a continuation.
    End { choice: usize, text: String, reason: Reason },
    /// The end of everything.
    Failed(Problem),
}

/// The replies to the jobs of one request. Dropping it cancels them.
#[derive(Debug)]
pub(crate) struct Replies(UnboundedReceiver<(usize, Reply)>);

impl Replies {
    /// The next one, with the number of its job. After a failure nothing follows.
    pub(crate) async fn next(&mut self) -> Result<(usize, Reply), Problem> {
        match self.0.recv().await {
            Some((_, Reply::Failed(problem))) => Err(problem),
            Some(reply) => Ok(reply),
            None => Err(Problem::failure(&"the model thread ended")),
        }
    }
}

/// A job on its way through the model thread.
#[derive(Debug)]
pub(super) struct Ticket {
    pub(super) job: Job,
    pub(super) arrived: Instant,
    /// Its place among the jobs of its request.
    number: usize,
    replies: UnboundedSender<(usize, Reply)>,
}

impl Ticket {
    /// Tickets for the jobs of one request.
    pub(super) fn all(jobs: Vec<Job>) -> (Vec<Self>, Replies) {
        let (replies, receiver) = unbounded_channel();
        let arrived = Instant::now();
        let ticket = |(number, job)| Self { job, arrived, number, replies: replies.clone() };
        (jobs.into_iter().enumerate().map(ticket).collect(), Replies(receiver))
    }

    /// Nobody waits for the replies any more.
    pub(super) fn is_abandoned(&self) -> bool {
        self.replies.is_closed()
    }

    pub(super) fn is_late(&self, now: Instant) -> bool {
        now >= self.job.deadline
    }

    /// Sends a reply; that nobody takes it is noticed elsewhere.
    pub(super) fn reply(&self, reply: Reply) {
        let _ = self.replies.send((self.number, reply));
    }

    pub(super) fn cancel(&self) -> &Cancel {
        &self.job.options.cancel
    }
}
