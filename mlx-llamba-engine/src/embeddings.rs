//! Embeddings, computed between the steps of the batch.

use std::collections::VecDeque;

use mlx_llamba::Llamba;
use tokio::sync::oneshot;

use crate::error::{Error, Result};

/// Texts that wait for their embeddings.
pub(crate) struct EmbedJob {
    texts: VecDeque<Vec<u32>>,
    done: Vec<Vec<f32>>,
    answer: oneshot::Sender<Result<Vec<Vec<f32>>>>,
}

impl EmbedJob {
    pub(crate) fn new(
        texts: Vec<Vec<u32>>,
        answer: oneshot::Sender<Result<Vec<Vec<f32>>>>,
    ) -> Self {
        Self { texts: texts.into(), done: Vec::new(), answer }
    }
}

/// Jobs in the order of their turns.
#[derive(Default)]
pub(crate) struct Embedder(VecDeque<EmbedJob>);

impl Embedder {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn push(&mut self, job: EmbedJob) {
        self.0.push_back(job);
    }

    /// Refuses all jobs.
    pub(crate) fn refuse(&mut self) {
        for job in self.0.drain(..) {
            let _ = job.answer.send(Err(Error::Closed));
        }
    }

    /// Embeds one text of the first job, which then goes to the end.
    pub(crate) fn step(&mut self, llamba: &Llamba) {
        let Some(mut job) = self.0.pop_front() else { return };
        if job.answer.is_closed() {
            return;
        }
        if let Some(text) = job.texts.pop_front() {
            match llamba.embed(&text) {
                Ok(vector) => job.done.push(vector),
                Err(error) => return drop(job.answer.send(Err(error.into()))),
            }
        }
        if job.texts.is_empty() {
            return drop(job.answer.send(Ok(job.done)));
        }
        self.0.push_back(job);
    }
}
