//! The model thread's loop: admits jobs, steps the batch, and sends out the results.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::Instant;

use mlx_llamba::decode::batch::{Batch, BatchEvent, RequestId, Step};
use mlx_llamba::decode::prefill_of;
use mlx_llamba::{Llamba, Reason};

use crate::command::Command;
use crate::embeddings::Embedder;
use crate::error::{Error, Result};
use crate::events::Event;
use crate::loaded::Loaded;
use crate::metrics::Metrics;
use crate::options::Options;
use crate::prefixes::{Keep, Prefixes};
use crate::prepared::Source;
use crate::queue::{Backlog, FairQueue, Job, Line};
use crate::sessions::{Open, Sessions};
use crate::slots::Slots;

/// State of the model thread.
pub(crate) struct Worker<'m> {
    llamba: &'m Llamba,
    batch: Batch<'m>,
    /// Prompt chunk size, in tokens.
    prefill: usize,
    slots: Slots,
    queue: FairQueue<Job>,
    running: HashMap<RequestId, Running<'m>>,
    sessions: Sessions<'m>,
    prefixes: Prefixes,
    backlog: &'m Backlog,
    metrics: &'m Metrics,
    embedder: Embedder,
    closing: bool,
}

/// A job in the batch.
struct Running<'m> {
    job: Job,
    /// The session's reply.
    open: Option<Open<'m>>,
    /// States to cache.
    keep: Option<Keep>,
    /// Tokens of the prompt.
    prompt: usize,
    started: Instant,
    generated: usize,
    /// Continuations that have not ended.
    left: usize,
    /// An error was sent, or the client is gone; the rows end with the next step.
    told: bool,
}

/// A request that was added to the batch.
struct Added<'m> {
    id: RequestId,
    open: Option<Open<'m>>,
    keep: Option<Keep>,
    /// Tokens of the prompt, and the number of them that are cached.
    prompt: usize,
    cached: usize,
}

impl<'m> Worker<'m> {
    pub(crate) fn new(
        loaded: &'m Loaded,
        slots: usize,
        options: &Options,
        metrics: &'m Metrics,
        backlog: &'m Backlog,
    ) -> mlx_llamba::Result<Self> {
        let device = loaded.llamba.model().device();
        let prefill = options.prefill.unwrap_or_else(|| prefill_of(device) / 2);
        Ok(Self {
            llamba: &loaded.llamba,
            batch: Batch::new(&loaded.llamba, prefill)?,
            prefill,
            slots: Slots::new(slots, options.rows.is_some()),
            queue: FairQueue::default(),
            running: HashMap::new(),
            sessions: Sessions::new(&loaded.llamba, loaded.template.as_ref(), options),
            prefixes: Prefixes::new(&loaded.llamba, options)?,
            backlog,
            metrics,
            embedder: Embedder::default(),
            closing: false,
        })
    }

    /// Works until told to end, or until all handles are gone.
    pub(crate) fn run(mut self, commands: &Receiver<Command>) {
        self.measure();
        'work: loop {
            if self.batch.is_empty() && self.queue.is_empty() && self.embedder.is_empty() {
                match commands.recv() {
                    Ok(Command::End) | Err(_) => break,
                    Ok(command) => self.command(command),
                }
            }
            while let Ok(command) = commands.try_recv() {
                if matches!(command, Command::End) {
                    break 'work;
                }
                self.command(command);
            }
            self.sweep();
            self.admit();
            self.step();
            self.embedder.step(self.llamba);
            self.measure();
        }
        self.prefixes.flush();
    }

    /// Updates the gauges.
    fn measure(&self) {
        self.metrics.waiting.set(self.backlog.waiting() as i64);
        self.metrics.rows.set(self.rows() as i64);
        self.metrics.sessions.set(self.sessions.len() as i64);
        let (memory, disk) = self.prefixes.bytes();
        self.metrics.cache_bytes.set(memory as i64);
        self.metrics.cache_disk_bytes.set(disk as i64);
    }

    fn command(&mut self, command: Command) {
        match command {
            Command::Start(jobs) if self.closing => self.backlog.refuse(jobs),
            Command::Start(jobs) => {
                jobs.into_iter().for_each(|job| self.queue.add(job));
            }
            Command::Embed(job) => {
                self.embedder.push(job);
                if self.closing {
                    self.embedder.refuse();
                }
            }
            Command::Sessions(task) => task(&mut self.sessions),
            Command::Close => {
                self.closing = true;
                self.backlog.refuse(self.queue.take(|_| false));
                self.embedder.refuse();
            }
            Command::Abort => {
                for running in self.running.values_mut() {
                    running.fail(Error::Closed);
                }
            }
            Command::End => {}
        }
    }

    /// Ends jobs whose client is gone or whose deadline has passed.
    fn sweep(&mut self) {
        let now = Instant::now();
        self.queue.sweep(now, self.backlog, self.metrics);
        for running in self.running.values_mut().filter(|running| !running.told) {
            if running.job.is_abandoned() {
                self.metrics.cancelled.inc();
                running.cancel();
            } else if running.job.is_late(now) {
                self.metrics.timed_out.inc();
                running.fail(Error::TimedOut { queued: false });
            }
        }
    }

    /// The number of continuations in the batch.
    fn rows(&self) -> usize {
        self.running.values().map(|running| running.left).sum()
    }

    /// Moves jobs from the queue to the batch while there is room.
    fn admit(&mut self) {
        loop {
            let rows = self.rows();
            let fits = |job: &Job| self.slots.fit(rows, job.prepared.choices());
            let Some(job) = self.queue.pop_if(fits) else { return };
            self.backlog.leave(job.prepared.choices());
            self.begin(job);
        }
    }

    /// Adds a job to the batch.
    fn begin(&mut self, mut job: Job) {
        let none = Source::Tokens { ids: Vec::new(), chat: None };
        let source = std::mem::replace(&mut job.prepared.source, none);
        let added = match self.add(source, &job) {
            Ok(added) => added,
            Err(error) => return job.fail(error),
        };
        let Added { id, open, keep, prompt, cached } = added;
        let started = Instant::now();
        self.metrics.queue_seconds.observe((started - job.arrived).as_secs_f64());
        self.metrics.prompt_tokens.inc_by(prompt as u64);
        self.metrics.cached_tokens.inc_by(cached as u64);
        let request = job.request;
        job.send(Event::Started { request, prompt_tokens: prompt, cached_tokens: cached });
        let left = job.prepared.choices();
        let (generated, told) = (0, false);
        let running = Running { job, open, keep, prompt, started, generated, left, told };
        self.running.insert(id, running);
    }

    fn add(&mut self, source: Source, job: &Job) -> Result<Added<'m>> {
        let settings = &job.prepared.settings;
        match source {
            Source::Tokens { ids, chat } => {
                let tenant = &job.prepared.tenant;
                let (request, keep, cached) =
                    self.prefixes.request(self.llamba, (&ids, chat), tenant, settings)?;
                let (id, prompt) = (self.batch.add(request)?, ids.len());
                Ok(Added { id, open: None, keep, prompt, cached })
            }
            Source::Session { claim, plan } => {
                let (new, cached) = (plan.prompt_tokens(), plan.kept_tokens());
                let (open, request) = self.sessions.begin(claim, plan, &settings.generation)?;
                let (id, prompt) = (self.batch.add(request)?, new + cached);
                Ok(Added { id, open: Some(open), keep: None, prompt, cached })
            }
        }
    }

    fn step(&mut self) {
        if self.batch.is_empty() {
            return;
        }
        let (start, rows) = (Instant::now(), self.batch.decoding());
        match self.batch.step() {
            Ok(events) => {
                let time = start.elapsed();
                self.metrics.step_seconds.observe(time.as_secs_f64());
                self.slots.adapt(rows, time);
                if rows > 0 {
                    self.metrics.batch_rows.observe(rows as f64);
                }
                for event in events {
                    self.event(event);
                }
            }
            Err(error) => self.fail(error),
        }
    }

    fn event(&mut self, event: BatchEvent) {
        let Some(running) = self.running.get_mut(&event.request) else { return };
        let (job, choice) = (&running.job, event.choice);
        let request = job.request;
        if let Some(open) = &mut running.open {
            open.turn.note(&event.step);
        }
        if let Some(Err(error)) =
            running.keep.as_mut().map(|keep| self.prefixes.note(keep, &event.step))
        {
            log::warn!("a state is not cached: {error}");
        }
        match event.step {
            Step::Prefill { logprobs, .. } => job.send(Event::Prefill { request, logprobs }),
            Step::Token { text, id, logprobs } => {
                if running.generated == 0 {
                    let time = job.arrived.elapsed();
                    self.metrics.first_token_seconds.observe(time.as_secs_f64());
                }
                self.metrics.generated_tokens.inc();
                running.generated += 1;
                job.send(Event::Token { request, choice, text, id, logprobs });
            }
            Step::End { text, reason, .. } => {
                self.backlog.served(running.started.elapsed());
                running.left -= 1;
                let whole = reason != Reason::Cancelled;
                let settled = running.open.take().map(|open| self.sessions.end(open, whole));
                if let Some(Err(error)) = settled {
                    job.fail(error);
                } else if !running.told {
                    job.send(Event::End { request, choice, text, reason });
                }
                if running.left == 0 {
                    log::info!(
                        "done client={} prompt_tokens={} generated_tokens={} queued_ms={} ms={}",
                        job.client(),
                        running.prompt,
                        running.generated,
                        (running.started - job.arrived).as_millis(),
                        job.arrived.elapsed().as_millis()
                    );
                    self.running.remove(&event.request);
                }
            }
            _ => {}
        }
    }

    /// Tells every job in the batch that the computation failed, and begins a new batch.
    fn fail(&mut self, error: mlx_llamba::Error) {
        let failed = Error::Failed(Arc::new(error));
        for (_, mut running) in self.running.drain() {
            if let Some(Err(error)) = running.open.take().map(|o| self.sessions.end(o, false)) {
                log::error!("a session is lost: {error}");
            }
            if !running.told {
                running.job.fail(failed.clone());
            }
        }
        match Batch::new(self.llamba, self.prefill) {
            Ok(batch) => self.batch = batch,
            Err(error) => log::error!("no new batch: {error}"),
        }
    }
}

impl Running<'_> {
    /// Ends the rows without a word.
    fn cancel(&mut self) {
        self.told = true;
        self.job.prepared.settings.generation.cancel.cancel();
    }

    /// Ends the rows with an error.
    fn fail(&mut self, error: Error) {
        if !self.told {
            self.job.fail(error);
            self.cancel();
        }
    }
}
