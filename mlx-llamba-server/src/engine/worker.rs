//! The model thread's loop: lets jobs in, runs the batch, hands out what comes of it.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::Instant;

use mlx_llamba::batch::{Batch, RowEvent, RowId, RowStep};
use mlx_llamba::{Error, Llamba, Reason};

use super::job::{Reply, Ticket};
use super::prefixes::{Keep, Prefixes};
use super::queue::FairQueue;
use super::sessions::{Open, Sessions};
use super::{Command, Loaded, Waiting};
use crate::metrics::Metrics;
use crate::options::Options;
use crate::problem::Problem;

pub(super) struct Worker<'m> {
    llamba: &'m Llamba,
    batch: Batch<'m>,
    piece: usize,
    slots: usize,
    queue: FairQueue<Ticket>,
    running: HashMap<RowId, Running<'m>>,
    sessions: Sessions<'m>,
    prefixes: Prefixes,
    waiting: &'m Waiting,
    metrics: &'m Arc<Metrics>,
    closing: bool,
}

/// A job that is computed.
struct Running<'m> {
    ticket: Ticket,
    /// The reply of a session.
    open: Option<Open<'m>>,
    /// What is kept of it for later requests.
    keep: Option<Keep>,
    prompt: usize,
    started: Instant,
    first: bool,
    generated: usize,
    /// Continuations that have not ended.
    left: usize,
    /// It was told its end already; the rows end with the next step.
    told: bool,
}

/// A job that was added to the batch.
struct Prepared<'m> {
    id: RowId,
    open: Option<Open<'m>>,
    keep: Option<Keep>,
    /// Tokens of its prompt, and how many of them are known already.
    prompt: usize,
    cached: usize,
}

impl<'m> Worker<'m> {
    pub(super) fn new(
        loaded: &'m Loaded,
        slots: usize,
        options: &Options,
        metrics: &'m Arc<Metrics>,
        waiting: &'m Waiting,
    ) -> Result<Self, Error> {
        let limits = &options.limits;
        Ok(Self {
            llamba: &loaded.llamba,
            batch: Batch::new(&loaded.llamba, limits.piece)?,
            piece: limits.piece,
            slots,
            queue: FairQueue::default(),
            running: HashMap::new(),
            sessions: Sessions::new(&loaded.llamba, loaded.template.as_ref(), limits),
            prefixes: Prefixes::new(&loaded.llamba, options)?,
            waiting,
            metrics,
            closing: false,
        })
    }

    /// Works until it is to end, or nobody can ask for anything any more.
    pub(super) fn run(mut self, commands: &Receiver<Command>) {
        self.measure();
        'work: loop {
            if self.batch.is_empty() && self.queue.is_empty() {
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
            self.measure();
        }
        self.prefixes.flush();
    }

    /// Notes how much there is of everything.
    fn measure(&self) {
        self.metrics.waiting.set(self.waiting.now());
        self.metrics.rows.set(self.rows());
        self.metrics.sessions.set(self.sessions.len());
        let (memory, disk) = self.prefixes.bytes();
        self.metrics.cache_bytes.set(memory);
        self.metrics.cache_disk_bytes.set(disk);
    }

    fn command(&mut self, command: Command) {
        match command {
            Command::Start(tickets) => {
                for ticket in tickets {
                    if self.closing {
                        self.waiting.leave(ticket.job.choices);
                        ticket.reply(Reply::Failed(Problem::closing()));
                    } else {
                        let client = ticket.job.client.clone();
                        self.queue.push(&client, ticket);
                    }
                }
            }
            Command::Sessions(work) => work(&mut self.sessions),
            Command::Close => {
                self.closing = true;
                for ticket in self.queue.take(|_| false) {
                    self.waiting.leave(ticket.job.choices);
                    ticket.reply(Reply::Failed(Problem::closing()));
                }
            }
            Command::End => {}
            Command::Abort => {
                for running in self.running.values_mut() {
                    running.give_up(Problem::closing());
                }
            }
        }
    }

    /// Ends what nobody waits for and what takes too long.
    fn sweep(&mut self) {
        let now = Instant::now();
        for ticket in self.queue.take(|ticket| !ticket.is_abandoned() && !ticket.is_late(now)) {
            self.waiting.leave(ticket.job.choices);
            if ticket.is_abandoned() {
                self.metrics.cancelled.add(1);
            } else {
                self.metrics.timed_out.add(1);
                ticket.reply(Reply::Failed(Problem::late("the request waited too long")));
            }
        }
        for running in self.running.values_mut().filter(|running| !running.told) {
            if running.ticket.is_abandoned() {
                self.metrics.cancelled.add(1);
                running.told = true;
                running.ticket.cancel().cancel();
            } else if running.ticket.is_late(now) {
                self.metrics.timed_out.add(1);
                running.give_up(Problem::late("the request took too long"));
            }
        }
    }

    /// Continuations in work.
    fn rows(&self) -> usize {
        self.running.values().map(|running| running.left).sum()
    }

    fn admit(&mut self) {
        loop {
            let free = self.slots.saturating_sub(self.rows());
            let Some(mut ticket) = self.queue.pop(|ticket| ticket.job.choices <= free) else {
                return;
            };
            self.waiting.leave(ticket.job.choices);
            match self.prepare(&mut ticket) {
                Ok(Prepared { id, open, keep, prompt, cached }) => {
                    let started = Instant::now();
                    self.metrics.queued.time(started - ticket.arrived);
                    self.metrics.prompt_tokens.add(prompt);
                    self.metrics.cached_tokens.add(cached);
                    ticket.reply(Reply::Started { prompt, cached });
                    let left = ticket.job.choices;
                    let (first, generated, told) = (false, 0, false);
                    let running = Running {
                        ticket,
                        open,
                        keep,
                        prompt,
                        started,
                        first,
                        generated,
                        left,
                        told,
                    };
                    self.running.insert(id, running);
                }
                Err(problem) => ticket.reply(Reply::Failed(problem)),
            }
        }
    }

    /// Adds a job to the batch.
    fn prepare(&mut self, ticket: &mut Ticket) -> Result<Prepared<'m>, Problem> {
        let job = &mut ticket.job;
        let Some(turn) = job.session.take() else {
            let (request, keep, cached) = self.prefixes.request(self.llamba, job)?;
            let (id, prompt) = (self.batch.add(request)?, job.prompt.len());
            return Ok(Prepared { id, open: None, keep, prompt, cached });
        };
        let (new, cached) = (turn.plan.prompt_tokens(), turn.plan.kept_tokens());
        let (open, request) = self.sessions.begin(turn, &job.options)?;
        let id = self.batch.add(request)?;
        Ok(Prepared { id, open: Some(open), keep: None, prompt: new + cached, cached })
    }

    fn step(&mut self) {
        if self.batch.is_empty() {
            return;
        }
        let (start, rows) = (Instant::now(), self.batch.decoding());
        match self.batch.step() {
            Ok(events) => {
                self.metrics.step.time(start.elapsed());
                if rows > 0 {
                    self.metrics.batch.observe(rows as f64);
                }
                for event in events {
                    self.event(event);
                }
            }
            Err(error) => self.fail(&error),
        }
    }

    fn event(&mut self, event: RowEvent) {
        let Some(running) = self.running.get_mut(&event.row) else { return };
        let (ticket, choice) = (&running.ticket, event.choice);
        if let Some(open) = &mut running.open {
            open.turn.note(&event.step);
        }
        if let Some(Err(error)) =
            running.keep.as_mut().map(|keep| self.prefixes.note(keep, &event.step))
        {
            log::warn!("a state is not kept: {error}");
        }
        match event.step {
            RowStep::Read { logprobs, .. } => ticket.reply(Reply::Read { logprobs }),
            RowStep::Token { text, id, logprobs } => {
                if !std::mem::replace(&mut running.first, true) {
                    self.metrics.first_token.time(ticket.arrived.elapsed());
                }
                self.metrics.generated_tokens.add(1);
                running.generated += 1;
                ticket.reply(Reply::Token { choice, text, id, logprobs });
            }
            RowStep::End { text, reason, .. } => {
                self.waiting.served(running.started.elapsed().as_millis() as usize);
                running.left -= 1;
                let whole = reason != Reason::Cancelled;
                let kept = running.open.take().map(|open| self.sessions.end(open, whole));
                if let Some(Err(error)) = kept {
                    ticket.reply(Reply::Failed(Problem::failure(&error)));
                } else if whole {
                    ticket.reply(Reply::End { choice, text, reason });
                }
                if running.left == 0 {
                    log::info!(
                        "done client={} prompt_tokens={} generated_tokens={} queued_ms={} ms={}",
                        ticket.job.client,
                        running.prompt,
                        running.generated,
                        (running.started - ticket.arrived).as_millis(),
                        ticket.arrived.elapsed().as_millis()
                    );
                    self.running.remove(&event.row);
                }
            }
            _ => {}
        }
    }

    /// The computation failed: everyone in it is told, the others go on.
    fn fail(&mut self, error: &Error) {
        let problem = Problem::failure(error);
        for (_, mut running) in self.running.drain() {
            if let Some(Err(error)) = running.open.take().map(|o| self.sessions.end(o, false)) {
                log::error!("a session is lost: {error}");
            }
            if !running.told {
                running.ticket.reply(Reply::Failed(problem.clone()));
            }
        }
        match Batch::new(self.llamba, self.piece) {
            Ok(batch) => self.batch = batch,
            Err(error) => log::error!("no new batch: {error}"),
        }
    }
}

impl Running<'_> {
    /// Tells the client why, and ends the rows.
    fn give_up(&mut self, problem: Problem) {
        if !std::mem::replace(&mut self.told, true) {
            self.ticket.reply(Reply::Failed(problem));
            self.ticket.cancel().cancel();
        }
    }
}
