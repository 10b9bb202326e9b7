//! Who is next: first come, first served among a client's requests, and clients in turn.

use std::collections::{HashMap, VecDeque};

/// Waiting jobs by client.
pub(super) struct FairQueue<T> {
    waiting: HashMap<String, VecDeque<T>>,
    /// Clients with something waiting, in the order of their turns.
    turns: VecDeque<String>,
}

impl<T> Default for FairQueue<T> {
    fn default() -> Self {
        Self { waiting: HashMap::new(), turns: VecDeque::new() }
    }
}

impl<T> FairQueue<T> {
    pub(super) fn push(&mut self, client: &str, job: T) {
        if let Some(jobs) = self.waiting.get_mut(client) {
            jobs.push_back(job);
            return;
        }
        self.waiting.insert(client.to_owned(), VecDeque::from([job]));
        self.turns.push_back(client.to_owned());
    }

    /// The next job, unless it does not `fit`: then everyone waits for room, or a large job would
    /// wait for ever.
    pub(super) fn pop(&mut self, fits: impl Fn(&T) -> bool) -> Option<T> {
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

    /// Takes out the jobs that are not to be kept.
    pub(super) fn take(&mut self, keep: impl Fn(&T) -> bool) -> Vec<T> {
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

    pub(super) fn is_empty(&self) -> bool {
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
