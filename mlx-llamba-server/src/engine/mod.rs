//! The model thread and the way to it. MLX's arrays never leave that thread: requests go in
//! through a channel, and text comes out through one a job.

mod claim;
mod job;
mod prefixes;
mod queue;
mod sessions;
mod worker;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use tokio::sync::oneshot;

use mlx_llamba::{Llamba, Template, Tokenizer, TurnDraft};

pub(crate) use claim::Claim;
use job::Ticket;
pub(crate) use job::{Job, Replies, Reply, SessionTurn};
pub(crate) use sessions::{Sessions, View};
use worker::Worker;

use crate::error::{Error, Result};
use crate::metrics::Metrics;
use crate::options::{Limits, Options};
use crate::problem::Problem;

/// What is served.
pub struct Loaded {
    /// The model, with its tokenizer.
    pub llamba: Llamba,
    /// How it was taught to chat, if it was.
    pub template: Option<Template>,
}

/// What the model thread is asked for.
enum Command {
    Start(Vec<Ticket>),
    /// Do this between two steps.
    Sessions(SessionWork),
    /// Take no more jobs; those that wait are refused.
    Close,
    /// End all jobs.
    Abort,
    /// End the thread.
    End,
}

/// Something to do with the sessions.
type SessionWork = Box<dyn for<'m> FnOnce(&mut Sessions<'m>) + Send>;

/// The way to the model thread. It ends with the last of these.
#[derive(Clone)]
pub(crate) struct Engine(Arc<Shared>);

struct Shared {
    commands: Sender<Command>,
    limits: Limits,
    slots: usize,
    tokenizer: Tokenizer,
    template: Option<Template>,
    vocab: usize,
    state: usize,
    waiting: Arc<Waiting>,
    metrics: Arc<Metrics>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// Continuations that wait, and how long one takes.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    count: AtomicUsize,
    /// Of the last ones, in milliseconds.
    service: AtomicUsize,
}

impl Engine {
    /// Starts the thread, which loads the model itself: it belongs there.
    pub(crate) fn start(
        load: impl FnOnce() -> Result<Loaded, mlx_llamba::Error> + Send + 'static,
        options: &Options,
        metrics: &Arc<Metrics>,
    ) -> Result<Self> {
        let (commands, receiver) = channel();
        let (ready, loaded) = channel();
        let (options, metrics) = (options.clone(), metrics.clone());
        let waiting = Arc::new(Waiting::default());
        let (own_limits, own_metrics, own_waiting) =
            (options.limits.clone(), metrics.clone(), waiting.clone());
        let body = move || {
            let found = load().map_err(Error::Model).and_then(|loaded| {
                let config = loaded.llamba.model().config();
                // A step holds the states before it and those after it.
                let state = config.state_bytes(4).max(1);
                let row = 2 * state;
                let limits = &options.limits;
                let slots = limits.rows.min(limits.state_memory / row);
                if slots == 0 {
                    let needed = row;
                    return Err(Error::Memory { given: limits.state_memory, needed });
                }
                let tokenizer = loaded.llamba.require_tokenizer().map_err(Error::Model)?.clone();
                let vocab = config.vocab_size;
                Ok((loaded, tokenizer, vocab, state, slots))
            });
            match found {
                Ok((loaded, tokenizer, vocab, state, slots)) => {
                    let facts = (tokenizer, loaded.template.clone(), vocab, state, slots);
                    match Worker::new(&loaded, slots, &options, &metrics, &waiting) {
                        Ok(worker) => {
                            if ready.send(Ok(facts)).is_ok() {
                                worker.run(&receiver);
                            }
                        }
                        Err(error) => drop(ready.send(Err(Error::Model(error)))),
                    }
                }
                Err(error) => drop(ready.send(Err(error))),
            }
        };
        let thread = std::thread::Builder::new().name("model".to_owned());
        let thread = thread.spawn(body).map_err(Error::Thread)?;
        let (tokenizer, template, vocab, state, slots) =
            loaded.recv().map_err(|_| Error::Ended)??;
        own_metrics.slots.set(slots);
        Ok(Self(Arc::new(Shared {
            commands,
            limits: own_limits,
            slots,
            tokenizer,
            template,
            vocab,
            state,
            waiting: own_waiting,
            metrics: own_metrics,
            thread: Mutex::new(Some(thread)),
        })))
    }

    pub(crate) fn tokenizer(&self) -> &Tokenizer {
        &self.0.tokenizer
    }

    pub(crate) fn template(&self) -> Option<&Template> {
        self.0.template.as_ref()
    }

    /// Entries of the vocabulary.
    pub(crate) fn vocab(&self) -> usize {
        self.0.vocab
    }

    /// Bytes that a saved session may have.
    pub(crate) fn session_bytes(&self) -> usize {
        (64 << 20) + 32 * self.0.state
    }

    /// Does something with the sessions, on their thread.
    ///
    /// # Errors
    /// Those of `work`, 503 if the thread has ended.
    pub(crate) async fn sessions<T: Send + 'static>(
        &self,
        work: impl for<'m> FnOnce(&mut Sessions<'m>) -> Result<T, Problem> + Send + 'static,
    ) -> Result<T, Problem> {
        let (done, result) = oneshot::channel();
        let work: SessionWork = Box::new(move |sessions| {
            // Whoever asked may have gone.
            let _ = done.send(work(sessions));
        });
        self.0.commands.send(Command::Sessions(work)).map_err(|_| Problem::closing())?;
        result.await.map_err(|_| Problem::closing())?
    }

    /// Does something with the sessions, unless their thread has ended: then there are none.
    fn tell(&self, work: impl for<'m> FnOnce(&mut Sessions<'m>) + Send + 'static) {
        let _ = self.0.commands.send(Command::Sessions(Box::new(work)));
    }

    /// Takes a session for one reply.
    ///
    /// # Errors
    /// 404 if there is none of this name, 409 if it is taken, 503 if the thread has ended.
    pub(crate) async fn claim(&self, id: String) -> Result<(Claim, TurnDraft), Problem> {
        let engine = self.clone();
        self.sessions(move |sessions| {
            let (number, draft) = sessions.claim(&id)?;
            Ok((Claim::new(engine, id, number), draft))
        })
        .await
    }

    /// Continuations that can be computed at once.
    pub(crate) fn slots(&self) -> usize {
        self.0.slots
    }

    /// Hands over the jobs of one request: all of them or none.
    ///
    /// # Errors
    /// 429 if too many wait, 503 if the thread has ended.
    pub(crate) fn submit(&self, jobs: Vec<Job>) -> Result<Replies, Problem> {
        let count: usize = jobs.iter().map(|job| job.choices).sum();
        self.0.waiting.enter(count, self.0.limits.queue, self.0.slots).inspect_err(|_| {
            self.0.metrics.refused.add(1);
        })?;
        let (tickets, replies) = Ticket::all(jobs);
        self.0.commands.send(Command::Start(tickets)).map_err(|_| {
            self.0.waiting.leave(count);
            Problem::closing()
        })?;
        Ok(replies)
    }

    /// False once the model thread has ended.
    pub(crate) fn is_alive(&self) -> bool {
        self.0.commands.send(Command::Start(Vec::new())).is_ok()
    }

    /// Refuses what waits; what runs goes on.
    pub(crate) fn close(&self) {
        // A thread that has ended takes nothing anyway.
        let _ = self.0.commands.send(Command::Close);
    }

    /// Ends the thread, which lets the model go before the process ends.
    pub(crate) fn join(&self) {
        let _ = self.0.commands.send(Command::End);
        let thread = self.0.thread.lock().ok().and_then(|mut thread| thread.take());
        if thread.is_some_and(|thread| thread.join().is_err()) {
            log::error!("the model thread panicked");
        }
    }

    /// Ends what runs.
    pub(crate) fn abort(&self) {
        let _ = self.0.commands.send(Command::Abort);
    }
}

impl Waiting {
    fn enter(&self, count: usize, limit: usize, slots: usize) -> Result<(), Problem> {
        let add = |now: usize| Some(now + count).filter(|&sum| sum <= limit);
        match self.count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add) {
            Ok(_) => Ok(()),
            Err(now) => {
                let seconds = now * self.service.load(Ordering::Relaxed) / slots.max(1) / 1000;
                let message = format!("{now} of at most {limit} requests wait; try again later");
                Err(Problem::busy(message, seconds.clamp(1, 120) as u64))
            }
        }
    }

    fn leave(&self, count: usize) {
        self.count.fetch_sub(count, Ordering::Relaxed);
    }

    pub(crate) fn now(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// Notes how long a continuation was computed.
    fn served(&self, milliseconds: usize) {
        let before = self.service.load(Ordering::Relaxed);
        let after = if before == 0 { milliseconds } else { (7 * before + milliseconds) / 8 };
        self.service.store(after, Ordering::Relaxed);
    }
}
