//! The engine: a handle to the thread that owns the model.

use std::fmt;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Instant;

use mlx_llamba::{LanguageModel, Template, Tokenizer};
use tokio::sync::oneshot;

use crate::command::Command;
use crate::embeddings::EmbedJob;
use crate::encoder::Encoder;
use crate::error::{Error, Result};
use crate::events::{Events, Output};
use crate::loaded::Loaded;
use crate::metrics::Metrics;
use crate::options::Options;
use crate::prepared::{Prepared, Preparer};
use crate::queue::{Backlog, Job};
use crate::request::{Prompt, Request};
use crate::streams::{self, LoadError, LoadedModel};
use crate::threads::Threads;
use crate::wait::wait;
use crate::worker::Worker;

/// A handle to a model that serves many requests at once. Clones are handles to the same model.
/// Dropping the last of them is a [`shutdown`](Engine::shutdown).
#[derive(Clone)]
pub struct Engine {
    pub(crate) shared: Arc<Shared>,
    /// The name of the tenant; empty for the first handle.
    pub(crate) tenant: Arc<str>,
}

pub(crate) struct Shared {
    pub(crate) commands: Sender<Command>,
    pub(crate) threads: Threads,
    options: Options,
    preparer: Preparer,
    /// Bytes of one state; 0 for a model whose state grows with the text.
    state: usize,
    backlog: Arc<Backlog>,
    metrics: Metrics,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// The model's properties that the handles need.
pub(crate) struct Facts {
    pub(crate) preparer: Preparer,
    /// Bytes of one state; 0 for a model whose state grows with the text.
    pub(crate) state: usize,
}

/// The state of the model thread.
pub(crate) struct Thread {
    pub(crate) options: Options,
    pub(crate) metrics: Metrics,
    pub(crate) backlog: Arc<Backlog>,
    pub(crate) commands: Receiver<Command>,
    ready: Option<oneshot::Sender<Result<Facts>>>,
}

impl Thread {
    /// Reports the model's facts. Returns `None` if nobody waits for the model any more.
    pub(crate) fn ready(mut self, facts: Facts) -> Option<Self> {
        let waits = self.ready.take()?.send(Ok(facts)).is_ok();
        waits.then_some(self)
    }

    /// Reports that there is no model.
    pub(crate) fn fail(self, error: Error) {
        if let Some(ready) = self.ready {
            drop(ready.send(Err(error)));
        }
    }
}

impl Engine {
    /// Loads a model on a thread of its own and starts serving it.
    ///
    /// MLX's arrays belong to one thread, so `load` runs on the thread that keeps the model.
    ///
    /// # Errors
    /// [`Error::Load`], [`Error::Memory`], [`Error::Option`], or [`Error::Thread`].
    pub async fn start(
        load: impl FnOnce() -> mlx_llamba::Result<Loaded> + Send + 'static,
        options: Options,
    ) -> Result<Self> {
        Self::spawn(options, |thread| run(load, thread)).await
    }

    /// Loads a model of any kind, such as a Transformer, on a thread of its own and starts serving it.
    /// Its texts take turns, and it has no sessions, cached prefixes or embeddings.
    ///
    /// # Errors
    /// [`Error::LoadModel`], [`Error::Option`], or [`Error::Thread`].
    pub async fn start_model<M: LanguageModel>(
        load: impl FnOnce() -> std::result::Result<LoadedModel<M>, LoadError> + Send + 'static,
        options: Options,
    ) -> Result<Self> {
        Self::spawn(options, |thread| streams::run(load, thread)).await
    }

    /// Starts the model thread, which runs `body`.
    async fn spawn(options: Options, body: impl FnOnce(Thread) + Send + 'static) -> Result<Self> {
        options.check()?;
        let (commands, receiver) = channel();
        let (ready, loaded) = oneshot::channel();
        let (metrics, backlog) = (Metrics::default(), Arc::new(Backlog::default()));
        let thread = Thread {
            options: options.clone(),
            metrics: metrics.clone(),
            backlog: backlog.clone(),
            commands: receiver,
            ready: Some(ready),
        };
        let thread = std::thread::Builder::new().name("model".to_owned()).spawn(|| body(thread));
        let thread = thread.map_err(|error| Error::Thread(Arc::new(error)))?;
        let Facts { preparer, state } = loaded.await.map_err(|_| Error::Ended)??;
        metrics.slots.set(preparer.slots as i64);
        let shared = Arc::new(Shared {
            commands,
            threads: Threads::new(options.threads),
            options,
            preparer,
            state,
            backlog,
            metrics,
            thread: Mutex::new(Some(thread)),
        });
        Ok(Self { shared, tenant: "".into() })
    }

    /// Runs [`start`](Self::start) and blocks the thread until the model is loaded.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub fn start_blocking(
        load: impl FnOnce() -> mlx_llamba::Result<Loaded> + Send + 'static,
        options: Options,
    ) -> Result<Self> {
        wait(Self::start(load, options))
    }

    /// Runs [`start_model`](Self::start_model) and blocks the thread until the model is loaded.
    ///
    /// # Errors
    /// As [`start_model`](Self::start_model).
    pub fn start_model_blocking<M: LanguageModel>(
        load: impl FnOnce() -> std::result::Result<LoadedModel<M>, LoadError> + Send + 'static,
        options: Options,
    ) -> Result<Self> {
        wait(Self::start_model(load, options))
    }

    /// Returns true for a Llamba, which has sessions, cached prefixes and embeddings.
    #[must_use]
    pub fn is_llamba(&self) -> bool {
        self.shared.state > 0
    }

    /// Fails for a model that has no `what`.
    pub(crate) fn require_llamba(&self, what: &'static str) -> Result<()> {
        if self.is_llamba() { Ok(()) } else { Err(Error::Unsupported { what }) }
    }

    /// Returns a handle for one of several tenants who must not learn about each other: its sessions
    /// and its cached prefixes are its own, and tenants take turns. The handle that
    /// [`start`](Self::start) returns is the tenant without a name.
    #[must_use]
    pub fn tenant(&self, name: &str) -> Self {
        Self { shared: self.shared.clone(), tenant: name.into() }
    }

    /// Queues a request and returns its events.
    ///
    /// # Errors
    /// [`Error::QueueFull`], [`Error::Closed`], and the reasons why a request is refused:
    /// [`Error::Request`], [`Error::PromptTooLong`], [`Error::Choices`], [`Error::NoTemplate`],
    /// [`Error::UnknownSession`], and others.
    pub async fn submit(&self, request: Request) -> Result<Events> {
        self.enqueue(self.prepare(vec![request]).await?)
    }

    /// Runs a request to its end.
    ///
    /// # Errors
    /// As [`submit`](Self::submit), and [`Error::TimedOut`] or [`Error::Failed`].
    pub async fn generate(&self, request: Request) -> Result<Output> {
        self.submit(request).await?.finish().await
    }

    /// Returns the embeddings of texts, each the ids of its tokens: see [`Llamba::embed`](mlx_llamba::Llamba::embed). A part of
    /// a text is read between two steps of the batch. Clients take turns; an empty name stands for the tenant's.
    ///
    /// # Errors
    /// [`Error::PromptTooLong`], [`Error::Request`] for a text without tokens or with unknown ones,
    /// [`Error::TimedOut`], [`Error::Closed`].
    pub async fn embed(&self, client: &str, texts: Vec<Vec<u32>>) -> Result<Vec<Vec<f32>>> {
        self.require_llamba("embeddings")?;
        texts.iter().try_for_each(|ids| self.shared.check_length(ids.len()))?;
        let client = if client.is_empty() { &self.tenant } else { client };
        let deadline = Instant::now() + self.shared.options.request_timeout;
        let (answer, answered) = oneshot::channel();
        let job = EmbedJob::new(client.to_owned(), deadline, texts, answer);
        self.shared.commands.send(Command::Embed(job)).map_err(|_| Error::Closed)?;
        answered.await.map_err(|_| Error::Closed)?
    }

    /// Runs a request to its end and blocks the thread. Not for async code.
    ///
    /// # Errors
    /// As [`generate`](Self::generate).
    pub fn generate_blocking(&self, request: Request) -> Result<Output> {
        wait(self.generate(request))
    }

    /// Renders, tokenizes and checks the prompts of requests, beside the model's thread and the
    /// caller's. A request in a session keeps the session to itself from here on.
    ///
    /// # Errors
    /// The reasons why a request is refused, as for [`submit`](Self::submit).
    pub async fn prepare(&self, requests: Vec<Request>) -> Result<Vec<Prepared>> {
        let mut claimed = Vec::with_capacity(requests.len());
        for request in requests {
            let session = match &request.prompt {
                Prompt::Session { id, .. } => Some(self.claim(id.clone()).await?),
                _ => None,
            };
            claimed.push((request, session));
        }
        let tenant = self.tenant.clone();
        let preparer = Preparer { tenant, ..self.shared.preparer.clone() };
        let prepare = move |(request, session)| preparer.prepare(request, session);
        self.shared.threads.run(move || claimed.into_iter().map(prepare).collect()).await
    }

    /// Queues prepared requests: all of them or none.
    ///
    /// # Errors
    /// [`Error::QueueFull`] or [`Error::Closed`].
    pub fn enqueue(&self, requests: Vec<Prepared>) -> Result<Events> {
        let Shared { commands, options, preparer, backlog, metrics, .. } = &*self.shared;
        let count: usize = requests.iter().map(Prepared::choices).sum();
        backlog.enter(count, options.queue, preparer.slots).inspect_err(|_| {
            metrics.refused.inc();
        })?;
        let (jobs, events) = Job::all(requests, options.request_timeout);
        commands.send(Command::Start(jobs)).map_err(|_| {
            backlog.leave(count);
            Error::Closed
        })?;
        Ok(events)
    }

    /// Decodes token ids, beside the model's thread and the caller's.
    ///
    /// # Errors
    /// [`Error::Request`] if the tokenizer fails.
    pub async fn decode(&self, ids: Vec<u32>) -> Result<String> {
        let tokenizer = self.tokenizer().clone();
        self.shared.threads.run(move || Ok(tokenizer.decode(&ids, false)?)).await
    }

    /// Encodes a text, with or without the tokens around it, beside the model's thread and the
    /// caller's.
    ///
    /// # Errors
    /// [`Error::PromptTooLong`] and [`Error::PromptMemory`]; [`Error::Request`] if the tokenizer
    /// fails.
    pub async fn encode(&self, text: String, special: bool) -> Result<Vec<u32>> {
        let encoder = self.shared.preparer.encoder.clone();
        self.shared.threads.run(move || encoder.encode(&text, special)).await
    }

    /// The model's tokenizer.
    #[must_use]
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.shared.preparer.encoder.tokenizer
    }

    /// The model's chat template.
    #[must_use]
    pub fn template(&self) -> Option<&Template> {
        self.shared.preparer.template.as_ref()
    }

    /// The number of entries in the model's vocabulary.
    #[must_use]
    pub fn vocab_size(&self) -> usize {
        self.shared.preparer.vocab
    }

    /// The number of continuations that can be computed at once.
    #[must_use]
    pub fn slots(&self) -> usize {
        self.shared.preparer.slots
    }

    /// The number of tokens that a prompt may have.
    #[must_use]
    pub fn prompt_tokens(&self) -> usize {
        self.shared.preparer.encoder.longest
    }

    /// The number of bytes that a saved session may have.
    #[must_use]
    pub fn session_bytes(&self) -> usize {
        (64 << 20) + 32 * self.shared.state
    }

    /// The engine's counters.
    #[must_use]
    pub fn metrics(&self) -> &Metrics {
        &self.shared.metrics
    }

    /// False once the model thread has ended.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        self.shared.commands.send(Command::Start(Vec::new())).is_ok()
    }

    /// Refuses waiting and new requests with [`Error::Closed`]; running ones go on.
    pub fn close(&self) {
        // A thread that has ended accepts nothing anyway.
        let _ = self.shared.commands.send(Command::Close);
    }

    /// Ends running requests with [`Error::Closed`].
    pub fn abort(&self) {
        let _ = self.shared.commands.send(Command::Abort);
    }

    /// Unloads the model, whatever runs, and blocks until that is done. Cached states are written
    /// to the cache directory.
    pub fn shutdown(&self) {
        self.shared.end();
    }
}

impl Shared {
    pub(crate) fn check_length(&self, tokens: usize) -> Result<()> {
        self.preparer.encoder.check_length(tokens)
    }

    /// Ends the model thread and waits for it.
    fn end(&self) {
        let _ = self.commands.send(Command::End);
        let thread = self.thread.lock().ok().and_then(|mut thread| thread.take());
        if thread.is_some_and(|thread| thread.join().is_err()) {
            log::error!("the model thread panicked");
        }
    }
}

impl Drop for Shared {
    /// Waits for the model thread: a process that ends while it unloads the model would tear MLX
    /// down under it, and crash.
    fn drop(&mut self) {
        self.end();
    }
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine").field("slots", &self.slots()).finish_non_exhaustive()
    }
}

/// The model thread: loads the model, reports its facts or an error, and serves it.
fn run(load: impl FnOnce() -> mlx_llamba::Result<Loaded>, thread: Thread) {
    let failed = |error| Error::Load(Arc::new(error));
    let loaded = load().map_err(failed);
    let found = loaded.and_then(|loaded| Ok((facts(&loaded, &thread.options)?, loaded)));
    let (facts, loaded) = match found {
        Ok(found) => found,
        Err(error) => return thread.fail(error),
    };
    let (slots, options) = (facts.preparer.slots, thread.options.clone());
    let (metrics, backlog) = (thread.metrics.clone(), thread.backlog.clone());
    match Worker::new(&loaded, slots, &options, &metrics, &backlog) {
        Ok(worker) => {
            if let Some(thread) = thread.ready(facts) {
                worker.run(&thread.commands);
            }
        }
        Err(error) => thread.fail(failed(error)),
    }
}

fn facts(loaded: &Loaded, options: &Options) -> Result<Facts> {
    let config = loaded.llamba.model().config();
    let state = config.state_bytes(4).max(1);
    // A step holds the states before it and those after it.
    let row = 2 * state;
    let slots = options.rows.unwrap_or(Options::MOST_ROWS).min(options.state_memory / row);
    if slots == 0 {
        return Err(Error::Memory { given: options.state_memory, needed: row });
    }
    let tokenizer = loaded.llamba.require_tokenizer();
    let tokenizer = tokenizer.map_err(|error| Error::Load(Arc::new(error)))?.clone();
    let preparer = Preparer {
        encoder: Encoder::new(tokenizer, options),
        template: loaded.template.clone(),
        vocab: config.vocab_size,
        slots,
        tenant: "".into(),
    };
    Ok(Facts { preparer, state })
}
