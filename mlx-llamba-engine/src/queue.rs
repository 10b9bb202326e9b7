//! Waiting jobs: first come, first served within a client, and clients in turn.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

use crate::error::{Error, Result};
use crate::events::{Event, Events};
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

/// Waiting jobs by client.
pub(crate) struct FairQueue<T> {
    waiting: HashMap<String, VecDeque<T>>,
    /// Clients with waiting jobs, in the order of their turns.
    turns: VecDeque<String>,
}

impl<T> Default for FairQueue<T> {
    fn default() -> Self {
        Self { waiting: HashMap::new(), turns: VecDeque::new() }
    }
}

impl<T> FairQueue<T> {
    pub(crate) fn push(&mut self, client: &str, job: T) {
        if let Some(jobs) = self.waiting.get_mut(client) {
            jobs.push_back(job);
            return;
        }
        self.waiting.insert(client.to_owned(), VecDeque::from([job]));
        self.turns.push_back(client.to_owned());
    }

    /// Takes the next job if it `fits`. Smaller jobs do not overtake one that does not fit, or a
    /// large job might wait forever.
    pub(crate) fn pop(&mut self, fits: impl Fn(&T) -> bool) -> Option<T> {
        let client = self.turns.front()?;
        let jobs = self.waiting.get_mut(client)?;
        if !jobs.front().is_some_and(fits) {
            return None;
        }
        let job = jobs.pop_front();
        let client = self.turns.pop_front()?;
        if jobs.is_empty() {
            self.waiting.remove(&client);
        } else {
            self.turns.push_back(client);
        }
        job
    }

    /// Removes and returns the jobs that are not to be kept.
    pub(crate) fn take(&mut self, keep: impl Fn(&T) -> bool) -> Vec<T> {
        let mut taken = Vec::new();
        for jobs in self.waiting.values_mut() {
            for job in std::mem::take(jobs) {
                if keep(&job) { jobs.push_back(job) } else { taken.push(job) }
            }
        }
        self.waiting.retain(|_, jobs| !jobs.is_empty());
        let waiting = &self.waiting;
        self.turns.retain(|client| waiting.contains_key(client));
        taken
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::FairQueue;

    fn drain(queue: &mut FairQueue<&'static str>) -> Vec<&'static str> {
        std::iter::from_fn(|| queue.pop(|_| true)).collect()
    }

    #[test]
    fn clients_take_turns_and_keep_their_order() {
        let mut queue = FairQueue::default();
        for (client, job) in [("a", "a1"), ("a", "a2"), ("a", "a3"), ("b", "b1"), ("c", "c1")] {
            queue.push(client, job);
        }
        assert_eq!(queue.pop(|_| true), Some("a1"));
        queue.push("b", "b2");
        assert_eq!(drain(&mut queue), ["b1", "c1", "a2", "b2", "a3"]);
        assert!(queue.is_empty());
    }

    #[test]
    fn a_job_that_does_not_fit_is_not_overtaken() {
        let mut queue = FairQueue::default();
        queue.push("a", "large");
        queue.push("b", "small");
        assert_eq!(queue.pop(|&job| job == "small"), None);
        assert_eq!(drain(&mut queue), ["large", "small"]);
    }

    #[test]
    fn jobs_can_be_taken_out() {
        let mut queue = FairQueue::default();
        for (client, job) in [("a", "a1"), ("b", "b1"), ("a", "a2")] {
            queue.push(client, job);
        }
        assert_eq!(queue.take(|&job| job != "b1"), ["b1"]);
        assert_eq!(drain(&mut queue), ["a1", "a2"]);
        assert!(queue.is_empty());
    }
}
