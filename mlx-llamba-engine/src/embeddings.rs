//! Embeddings, computed between the steps of the batch.

use std::collections::VecDeque;
use std::time::Instant;

use mlx_llamba::{Embedding, Llamba};
use tokio::sync::oneshot;

use crate::error::{Error, Result};
use crate::queue::{FairQueue, Line};

/// Texts that wait for their embeddings.
pub(crate) struct EmbedJob {
    /// The client that takes its turn.
    client: String,
    deadline: Instant,
    texts: VecDeque<Vec<u32>>,
    /// The text that is being read.
    current: Option<Embedding>,
    done: Vec<Vec<f32>>,
    answer: oneshot::Sender<Result<Vec<Vec<f32>>>>,
}

impl EmbedJob {
    pub(crate) fn new(
        client: String,
        deadline: Instant,
        texts: Vec<Vec<u32>>,
        answer: oneshot::Sender<Result<Vec<Vec<f32>>>>,
    ) -> Self {
        Self { client, deadline, texts: texts.into(), current: None, done: Vec::new(), answer }
    }

    /// Reads a part of a text. Returns true after the last one.
    fn step(&mut self, llamba: &Llamba) -> Result<bool> {
        if Instant::now() >= self.deadline {
            return Err(Error::TimedOut { queued: self.done.is_empty() && self.current.is_none() });
        }
        if self.current.is_none() {
            self.current =
                self.texts.pop_front().map(|ids| llamba.begin_embedding(ids)).transpose()?;
        }
        if let Some(vector) =
            self.current.as_mut().map(|text| text.step(llamba)).transpose()?.flatten()
        {
            self.current = None;
            self.done.push(vector);
        }
        Ok(self.current.is_none() && self.texts.is_empty())
    }
}

/// Jobs, whose clients take turns.
#[derive(Default)]
pub(crate) struct Embedder(FairQueue<EmbedJob>);

impl Embedder {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn push(&mut self, job: EmbedJob) {
        self.0.push(&job.client.clone(), "", job);
    }

    /// Refuses all jobs.
    pub(crate) fn refuse(&mut self) {
        for job in self.0.take(|_| false) {
            let _ = job.answer.send(Err(Error::Closed));
        }
    }

    /// Reads a part of a text of the client whose turn it is.
    pub(crate) fn step(&mut self, llamba: &Llamba) {
        let Some(mut job) = self.0.pop_if(|_| true) else { return };
        if job.answer.is_closed() {
            return;
        }
        match job.step(llamba) {
            Ok(false) => self.push(job),
            Ok(true) => drop(job.answer.send(Ok(job.done))),
            Err(error) => drop(job.answer.send(Err(error))),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::time::Duration;

    use super::*;

    /// A long text of one client is read in parts, between which another client has its turn.
    #[test]
    fn clients_take_turns_within_texts() {
        let llamba = Llamba::embedded().load().unwrap();
        let (mut embedder, later) =
            (Embedder::default(), Instant::now() + Duration::from_secs(600));
        let push = |embedder: &mut Embedder, client: &str, length: usize, deadline| {
            let (answer, answered) = oneshot::channel();
            let texts = vec![vec![5; length]];
            embedder.push(EmbedJob::new(client.to_owned(), deadline, texts, answer));
            answered
        };
        let mut long = push(&mut embedder, "a", 1200, later);
        let _second = push(&mut embedder, "a", 1200, later);
        let mut short = push(&mut embedder, "b", 3, later);
        let mut late = push(&mut embedder, "c", 3, Instant::now());
        for _ in 0..3 {
            embedder.step(&llamba);
        }
        let vectors = short.try_recv().unwrap().unwrap();
        assert_eq!(vectors, [llamba.embed(&[5; 3]).unwrap()]);
        let error = late.try_recv().unwrap().unwrap_err();
        assert!(matches!(error, Error::TimedOut { queued: true }), "{error}");
        assert!(long.try_recv().is_err());
        while !embedder.is_empty() {
            embedder.step(&llamba);
        }
        assert_eq!(long.try_recv().unwrap().unwrap(), [llamba.embed(&[5; 1200]).unwrap()]);
    }
}
