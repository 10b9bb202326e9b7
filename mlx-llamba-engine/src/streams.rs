//! Serves models of other kinds, such as Transformers: texts take turns, each with a stream of its own.
//!
//! Such models keep no sessions and no cached prefixes, since their states grow with the text.

use std::sync::Arc;
use std::time::Instant;

use mlx_llamba::decode::generation::Event as StreamEvent;
use mlx_llamba::{Context, LanguageModel, Stream, Template, Tokenizer};

use crate::command::Command;
use crate::encoder::Encoder;
use crate::engine::{Facts, Thread};
use crate::error::{Error, Result};
use crate::events::Event;
use crate::options::Options;
use crate::prepared::{Preparer, Source};
use crate::queue::{FairQueue, Job, Line};

/// The number of texts computed in turns unless [`Options::rows`] says otherwise. Each of them reads
/// all weights: more would only make each slower.
const ROWS: usize = 8;

/// The reason why a model cannot be loaded.
pub type LoadError = Box<dyn std::error::Error + Send + Sync>;

/// A model of any kind, with its tokenizer and chat template.
pub struct LoadedModel<M> {
    model: M,
    tokenizer: Tokenizer,
    template: Option<Template>,
}

impl<M: LanguageModel> LoadedModel<M> {
    /// Takes the chat template of the tokenizer, if it has one and none is given.
    ///
    /// # Errors
    /// The library's, if the template does not compile.
    pub fn new(
        model: M,
        tokenizer: Tokenizer,
        template: Option<Template>,
    ) -> mlx_llamba::Result<Self> {
        let template = match template {
            None => match Template::of(&tokenizer, None) {
                Err(mlx_llamba::Error::TemplateMissing { .. }) => None,
                found => Some(found?),
            },
            given => given,
        };
        Ok(Self { model, tokenizer, template })
    }
}

/// The model thread: loads the model, reports its facts or an error, and serves it.
pub(crate) fn run<M: LanguageModel>(
    load: impl FnOnce() -> std::result::Result<LoadedModel<M>, LoadError>,
    thread: Thread,
) {
    let loaded = match load() {
        Ok(loaded) => loaded,
        Err(error) => return thread.fail(Error::LoadModel(error.into())),
    };
    let mut options = thread.options.clone();
    if let Some(context) = loaded.model.context_length() {
        // A token at least is generated.
        options.prompt_tokens = options.prompt_tokens.min(context.saturating_sub(1)).max(1);
    }
    let slots = options.rows.unwrap_or(ROWS);
    let preparer = Preparer {
        encoder: Encoder::new(loaded.tokenizer.clone(), &options),
        template: loaded.template.clone(),
        vocab: loaded.model.vocab_size(),
        slots,
        tenant: "".into(),
    };
    if let Some(thread) = thread.ready(Facts { preparer, state: 0 }) {
        let turns = Turns {
            loaded: &loaded,
            options: &options,
            thread: &thread,
            slots,
            queue: FairQueue::default(),
            running: Vec::new(),
            closing: false,
        };
        turns.run();
    }
}

/// State of the model thread.
struct Turns<'m, M: LanguageModel> {
    loaded: &'m LoadedModel<M>,
    options: &'m Options,
    thread: &'m Thread,
    slots: usize,
    queue: FairQueue<Job>,
    running: Vec<Running<'m, M>>,
    closing: bool,
}

/// A job with its continuations.
struct Running<'m, M: LanguageModel> {
    job: Job,
    /// `None` for one that has ended.
    streams: Vec<Option<Stream<'m, M>>>,
    started: Instant,
    generated: usize,
}

impl<'m, M: LanguageModel> Turns<'m, M> {
    /// Works until told to end, or until all handles are gone.
    fn run(mut self) {
        self.measure();
        'work: loop {
            if self.running.is_empty() && self.queue.is_empty() {
                match self.thread.commands.recv() {
                    Ok(Command::End) | Err(_) => break,
                    Ok(command) => self.command(command),
                }
            }
            while let Ok(command) = self.thread.commands.try_recv() {
                if matches!(command, Command::End) {
                    break 'work;
                }
                self.command(command);
            }
            self.sweep();
            self.admit();
            let start = Instant::now();
            let rows = self.rows();
            self.running.iter_mut().for_each(|running| running.step(self.thread));
            self.running.retain(|running| running.streams.iter().any(Option::is_some));
            if rows > 0 {
                self.thread.metrics.step_seconds.observe(start.elapsed().as_secs_f64());
                self.thread.metrics.batch_rows.observe(rows as f64);
            }
            self.measure();
        }
    }

    fn measure(&self) {
        self.thread.metrics.waiting.set(self.thread.backlog.waiting() as i64);
        self.thread.metrics.rows.set(self.rows() as i64);
    }

    /// The number of continuations that are computed.
    fn rows(&self) -> usize {
        self.running.iter().map(|running| running.streams.iter().flatten().count()).sum()
    }

    fn command(&mut self, command: Command) {
        match command {
            Command::Start(jobs) if self.closing => self.thread.backlog.refuse(jobs),
            Command::Start(jobs) => jobs.into_iter().for_each(|job| self.queue.add(job)),
            Command::Close => {
                self.closing = true;
                self.thread.backlog.refuse(self.queue.take(|_| false));
            }
            Command::Abort => {
                self.running.drain(..).for_each(|running| running.job.fail(Error::Closed));
            }
            // The handles refuse these.
            Command::Embed(_) | Command::Sessions(_) | Command::End => {}
        }
    }

    /// Ends jobs whose client is gone or whose deadline has passed.
    fn sweep(&mut self) {
        let (now, metrics) = (Instant::now(), &self.thread.metrics);
        self.queue.sweep(now, &self.thread.backlog, metrics);
        self.running.retain(|running| {
            if running.job.is_abandoned() {
                metrics.cancelled.inc();
            } else if running.job.is_late(now) {
                metrics.timed_out.inc();
                running.job.fail(Error::TimedOut { queued: false });
            } else {
                return true;
            }
            false
        });
    }

    /// Begins jobs of the queue while there is room.
    fn admit(&mut self) {
        loop {
            let free = self.slots.saturating_sub(self.rows());
            let Some(job) = self.queue.pop_if(|job| job.prepared.choices() <= free) else { return };
            self.thread.backlog.leave(job.prepared.choices());
            let streams = match self.begin(&job) {
                Ok(streams) => streams,
                Err(error) => {
                    job.fail(error);
                    continue;
                }
            };
            let (started, metrics) = (Instant::now(), &self.thread.metrics);
            metrics.queue_seconds.observe((started - job.arrived).as_secs_f64());
            let prompt_tokens = job.prepared.tokens().len();
            metrics.prompt_tokens.inc_by(prompt_tokens as u64);
            job.send(Event::Started { request: job.request, prompt_tokens, cached_tokens: 0 });
            self.running.push(Running { job, streams, started, generated: 0 });
        }
    }

    /// Begins the continuations of a job.
    fn begin(&self, job: &Job) -> Result<Vec<Option<Stream<'m, M>>>> {
        let settings = &job.prepared.settings;
        let Source::Tokens { ids, .. } = &job.prepared.source else {
            return Err(Error::Unsupported { what: "sessions" });
        };
        if settings.prompt_logprobs {
            return Err(Error::Unsupported { what: "log-probabilities of prompts" });
        }
        let LoadedModel { model, tokenizer, .. } = self.loaded;
        let mut options = settings.generation.clone();
        options.prefill = self.options.prefill;
        let room = model.context_length().map_or(usize::MAX, |most| most.saturating_sub(ids.len()));
        options.max_tokens = options.max_tokens.min(room);
        let begin = |choice: usize| {
            let mut options = options.clone();
            options.sampling.seed =
                options.sampling.seed.map(|seed| seed.wrapping_add(choice as u64));
            let context = Context::new(model)?;
            Ok(Some(Stream::new(model, Some(tokenizer), context, ids, &options)?))
        };
        (0..settings.choices).map(begin).collect()
    }
}

impl<M: LanguageModel> Running<'_, M> {
    /// Advances each continuation by a token, or by a chunk of the prompt.
    fn step(&mut self, thread: &Thread) {
        let (request, metrics) = (self.job.request, &thread.metrics);
        for (choice, slot) in self.streams.iter_mut().enumerate() {
            let Some(stream) = slot else { continue };
            match stream.next() {
                Some(Ok(StreamEvent::Prefill { .. })) => {
                    self.job.send(Event::Prefill { request, logprobs: Vec::new() });
                }
                Some(Ok(StreamEvent::Token { text, id, logprobs })) => {
                    if self.generated == 0 {
                        let time = self.job.arrived.elapsed();
                        metrics.first_token_seconds.observe(time.as_secs_f64());
                    }
                    metrics.generated_tokens.inc();
                    self.generated += 1;
                    self.job.send(Event::Token { request, choice, text, id, logprobs });
                }
                Some(Ok(StreamEvent::End { text, reason, .. })) => {
                    *slot = None;
                    thread.backlog.served(self.started.elapsed());
                    self.job.send(Event::End { request, choice, text, reason });
                }
                Some(Ok(_)) => {}
                Some(Err(error)) => {
                    self.job.fail(Error::Failed(Arc::new(error)));
                    self.streams.iter_mut().for_each(|stream| *stream = None);
                    return;
                }
                None => *slot = None,
            }
        }
    }
}
