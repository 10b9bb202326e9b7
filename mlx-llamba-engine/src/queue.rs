//! Waiting jobs: first come, first served within a client, and clients in turn.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

use crate::error::{Error, Result};
use crate::events::{Event, Events};
use crate::metrics::Metrics;
use crate::prepared::Prepared;

/// A prepared request with the channel for its events.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) prepared: Prepared,
    pub(crate) arrived: Instant,
    pub(crate) deadline: Instant,
    /// Its index among the requests that were submitted together.
    pub(crate) request: usize,
    events: UnboundedSender<Result<Event>>,
}

impl Job {
    /// Jobs for requests that were submitted together, and the stream of their events.
    pub(crate) fn all(prepared: Vec<Prepared>, timeout: Duration) -> (Vec<Self>, Events) {
        let (events, receiver) = unbounded_channel();
        let arrived = Instant::now();
        let choices = prepared.iter().map(Prepared::choices).collect();
        let job = |(request, prepared): (usize, Prepared)| {
            let deadline = prepared.settings.deadline.unwrap_or(arrived + timeout);
            Self { prepared, arrived, deadline, request, events: events.clone() }
        };
        let jobs = prepared.into_iter().enumerate().map(job).collect();
        (jobs, Events::new(receiver, choices))
    }

    /// The client, who is the tenant unless the request names one.
    pub(crate) fn client(&self) -> String {
        let (tenant, client) = (&self.prepared.tenant, &self.prepared.settings.client);
        if client.is_empty() { tenant.to_string() } else { client.clone() }
    }

    /// True once the stream of events was dropped.
    pub(crate) fn is_abandoned(&self) -> bool {
        self.events.is_closed()
    }

    pub(crate) fn is_late(&self, now: Instant) -> bool {
        now >= self.deadline
    }

    /// Sends an event. A missing receiver is noticed by the worker's next sweep.
    pub(crate) fn send(&self, event: Event) {
        let _ = self.events.send(Ok(event));
    }

    /// Sends an error, the last thing that the client hears.
    pub(crate) fn fail(&self, error: Error) {
        let _ = self.events.send(Err(error));
    }
}

/// The number of waiting continuations, and the time that one takes.
#[derive(Debug, Default)]
pub(crate) struct Backlog {
    waiting: AtomicUsize,
    /// A running average, in milliseconds.
    service: AtomicUsize,
}

impl Backlog {
    /// Counts continuations that join the queue.
    ///
    /// # Errors
    /// [`Error::QueueFull`] if the queue would exceed `limit`.
    pub(crate) fn enter(&self, count: usize, limit: usize, slots: usize) -> Result<()> {
        let add = |waiting: usize| Some(waiting + count).filter(|&sum| sum <= limit);
        match self.waiting.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add) {
            Ok(_) => Ok(()),
            Err(waiting) => {
                let service = self.service.load(Ordering::Relaxed);
                let milliseconds = waiting * service / slots.max(1);
                let retry_after = Duration::from_millis(milliseconds.clamp(1000, 120_000) as u64);
                Err(Error::QueueFull { waiting, limit, retry_after })
            }
        }
    }

    pub(crate) fn leave(&self, count: usize) {
        self.waiting.fetch_sub(count, Ordering::Relaxed);
    }

    /// Refuses jobs that wait.
    pub(crate) fn refuse(&self, jobs: Vec<Job>) {
        for job in jobs {
            self.leave(job.prepared.choices());
            job.fail(Error::Closed);
        }
    }

    pub(crate) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Records the time that a continuation took to compute.
    pub(crate) fn served(&self, time: Duration) {
        let now = time.as_millis() as usize;
        let before = self.service.load(Ordering::Relaxed);
        let after = if before == 0 { now } else { (7 * before + now) / 8 };
        self.service.store(after, Ordering::Relaxed);
    }
}

impl FairQueue<Job> {
    /// Adds a job behind those of its client and user.
    pub(crate) fn add(&mut self, job: Job) {
        let (client, user) = (job.client(), job.prepared.settings.user.clone());
        self.push(&client, &user, job);
    }

    /// Ends jobs whose client is gone or whose deadline has passed.
    pub(crate) fn sweep(&mut self, now: Instant, backlog: &Backlog, metrics: &Metrics) {
        for job in self.take(|job| !job.is_abandoned() && !job.is_late(now)) {
            backlog.leave(job.prepared.choices());
            if job.is_abandoned() {
                metrics.cancelled.inc();
            } else {
                metrics.timed_out.inc();
                job.fail(Error::TimedOut { queued: true });
            }
        }
    }
}

/// Waiting jobs: clients take turns, and the users of a client take turns within it.
pub(crate) type FairQueue<T> = Turns<Turns<VecDeque<T>>>;

/// Lines that take turns.
pub(crate) struct Turns<L> {
    lines: HashMap<String, L>,
    /// Names of the lines, none of which is empty, in the order of their turns.
    order: VecDeque<String>,
}

/// Jobs in the order in which they are taken.
pub(crate) trait Line<T> {
    /// The next job.
    fn front(&self) -> Option<&T>;
    /// Takes the next job.
    fn pop(&mut self) -> Option<T>;
    /// Moves the jobs that are not to be kept to `taken`.
    fn sort_out(&mut self, keep: &dyn Fn(&T) -> bool, taken: &mut Vec<T>);
    fn is_empty(&self) -> bool;
}

impl<T> Line<T> for VecDeque<T> {
    fn front(&self) -> Option<&T> {
        self.front()
    }

    fn pop(&mut self) -> Option<T> {
        self.pop_front()
    }

    fn sort_out(&mut self, keep: &dyn Fn(&T) -> bool, taken: &mut Vec<T>) {
        for job in std::mem::take(self) {
            if keep(&job) { self.push_back(job) } else { taken.push(job) }
        }
    }

    fn is_empty(&self) -> bool {
        self.is_empty()
    }
}

impl<L> Default for Turns<L> {
    fn default() -> Self {
        Self { lines: HashMap::new(), order: VecDeque::new() }
    }
}

impl<L: Default> Turns<L> {
    /// The line of that name, which gets its turn after the others if it is new.
    fn line(&mut self, name: &str) -> &mut L {
        if !self.lines.contains_key(name) {
            self.order.push_back(name.to_owned());
        }
        self.lines.entry(name.to_owned()).or_default()
    }
}

impl<T, L: Line<T>> Line<T> for Turns<L> {
    fn front(&self) -> Option<&T> {
        self.lines.get(self.order.front()?)?.front()
    }

    fn pop(&mut self) -> Option<T> {
        let name = self.order.pop_front()?;
        let line = self.lines.get_mut(&name)?;
        let job = line.pop();
        if line.is_empty() {
            self.lines.remove(&name);
        } else {
            self.order.push_back(name);
        }
        job
    }

    fn sort_out(&mut self, keep: &dyn Fn(&T) -> bool, taken: &mut Vec<T>) {
        self.lines.values_mut().for_each(|line| line.sort_out(keep, taken));
        self.lines.retain(|_, line| !line.is_empty());
        let lines = &self.lines;
        self.order.retain(|name| lines.contains_key(name));
    }

    fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }
}

impl<T> FairQueue<T> {
    pub(crate) fn push(&mut self, client: &str, user: &str, job: T) {
        self.line(client).line(user).push_back(job);
    }

    /// Takes the next job if it `fits`. Smaller jobs do not overtake one that does not fit, or a
    /// large job might wait forever.
    pub(crate) fn pop_if(&mut self, fits: impl Fn(&T) -> bool) -> Option<T> {
        if self.front().is_some_and(fits) { self.pop() } else { None }
    }

    /// Removes and returns the jobs that are not to be kept.
    pub(crate) fn take(&mut self, keep: impl Fn(&T) -> bool) -> Vec<T> {
        let mut taken = Vec::new();
        self.sort_out(&keep, &mut taken);
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::{FairQueue, Line};

    fn drain(queue: &mut FairQueue<&'static str>) -> Vec<&'static str> {
        std::iter::from_fn(|| queue.pop_if(|_| true)).collect()
    }

    #[test]
    fn clients_take_turns_and_keep_their_order() {
        let mut queue = FairQueue::default();
        for (client, job) in [("a", "a1"), ("a", "a2"), ("a", "a3"), ("b", "b1"), ("c", "c1")] {
            queue.push(client, "", job);
        }
        assert_eq!(queue.pop_if(|_| true), Some("a1"));
        queue.push("b", "", "b2");
        assert_eq!(drain(&mut queue), ["b1", "c1", "a2", "b2", "a3"]);
        assert!(queue.is_empty());
    }

    /// A client does not get more turns by naming more users.
    #[test]
    fn users_take_turns_within_a_client() {
        let mut queue = FairQueue::default();
        for (client, user, job) in [
            ("a", "x", "ax1"),
            ("a", "x", "ax2"),
            ("a", "y", "ay1"),
            ("b", "", "b1"),
            ("b", "", "b2"),
        ] {
            queue.push(client, user, job);
        }
        assert_eq!(drain(&mut queue), ["ax1", "b1", "ay1", "b2", "ax2"]);
        assert!(queue.is_empty());
    }

    #[test]
    fn a_job_that_does_not_fit_is_not_overtaken() {
        let mut queue = FairQueue::default();
        queue.push("a", "", "large");
        queue.push("b", "", "small");
        assert_eq!(queue.pop_if(|&job| job == "small"), None);
        assert_eq!(drain(&mut queue), ["large", "small"]);
    }

    #[test]
    fn jobs_can_be_taken_out() {
        let mut queue = FairQueue::default();
        for (client, job) in [("a", "a1"), ("b", "b1"), ("a", "a2")] {
            queue.push(client, "", job);
        }
        assert_eq!(queue.take(|&job| job != "b1"), ["b1"]);
        assert_eq!(drain(&mut queue), ["a1", "a2"]);
        assert!(queue.is_empty());
    }
}
