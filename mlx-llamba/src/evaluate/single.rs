//! The predictions of one model.

use mlx_rs::Array;
use mlx_rs::ops::indexing::TryIndexOp;
use mlx_rs::transforms::eval;
use serde::Serialize;

use super::estimate::{Estimate, Mean};
use super::{Reader, log_probs, losses};
use crate::error::Result;
use crate::host;
use crate::language::LanguageModel;
use crate::tokens;

/// The quality of predictions of texts.
#[non_exhaustive]
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Prediction {
    /// Mean negative log-likelihood per token, in nats.
    pub nats_per_token: Estimate,
    /// `exp` of the mean.
    pub perplexity: Estimate,
    /// Negative log-likelihood per byte of text, in bits; `None` if the bytes are unknown.
    pub bits_per_byte: Option<Estimate>,
}

impl From<&Mean> for Prediction {
    fn from(nats: &Mean) -> Self {
        let bits = |nats: Estimate| {
            let slope = std::f64::consts::LOG2_E;
            nats.map(nats.value * slope, slope)
        };
        let nats_per_token = nats.estimate();
        let perplexity = nats_per_token.exp();
        Self { nats_per_token, perplexity, bits_per_byte: nats.per_byte().map(bits) }
    }
}

/// Results of [`Single`].
#[non_exhaustive]
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Perplexity {
    /// The number of tokens predicted.
    pub tokens: u64,
    /// The number of texts in which tokens were predicted.
    pub documents: u64,
    /// The number of bytes of the texts.
    pub bytes: u64,
    /// The quality of the predictions.
    #[serde(flatten)]
    pub prediction: Prediction,
}

/// Measures the perplexity of one model.
pub struct Single<'m, M: LanguageModel> {
    side: Side<'m, M>,
    nats: Mean,
}

impl<'m, M: LanguageModel> Single<'m, M> {
    /// Starts with an empty state.
    ///
    /// # Errors
    /// MLX's own.
    pub fn new(model: &'m M) -> Result<Self> {
        Ok(Self { side: Side::new(model)?, nats: Mean::default() })
    }
}

impl<M: LanguageModel> Reader for Single<'_, M> {
    type Report = Perplexity;

    fn vocab_size(&self) -> usize {
        self.side.model.vocab_size()
    }

    fn context_length(&self) -> Option<usize> {
        self.side.model.context_length()
    }

    fn reset(&mut self) -> Result<()> {
        self.side.reset()
    }

    fn advance(&mut self, tokens: &[u32]) -> Result<()> {
        self.side.hidden(tokens)?;
        self.side.settle(&[])
    }

    fn score(&mut self, tokens: &[u32], next: &[u32]) -> Result<()> {
        let log_probs = self.side.log_probs(tokens)?; // (l, vocab)
        let losses = losses(&log_probs, &self.side.row(next)?)?; // (l)
        self.side.settle(&[&losses])?;
        self.nats.add(&host::floats(&losses)?);
        Ok(())
    }

    fn end(&mut self, bytes: u64) {
        self.nats.end(bytes);
    }

    fn report(&self) -> Perplexity {
        Perplexity {
            tokens: self.nats.tokens(),
            documents: self.nats.documents(),
            bytes: self.nats.bytes() as u64,
            prediction: Prediction::from(&self.nats),
        }
    }
}

/// A model and its state.
pub(super) struct Side<'m, M: LanguageModel> {
    pub(super) model: &'m M,
    pub(super) state: M::State,
}

impl<'m, M: LanguageModel> Side<'m, M> {
    pub(super) fn new(model: &'m M) -> Result<Self> {
        Ok(Self { model, state: model.start()? })
    }

    pub(super) fn reset(&mut self) -> Result<()> {
        self.state = self.model.start()?;
        Ok(())
    }

    /// Reads tokens and returns their hidden states (1, l, d). Lazy.
    pub(super) fn hidden(&mut self, ids: &[u32]) -> Result<Array> {
        let tokens = self.array(ids)?; // (1, l)
        let (hidden, state) = self.model.read(&tokens, self.state.clone())?;
        self.state = state;
        Ok(hidden)
    }

    /// Reads tokens and returns the log-probabilities (l, vocab) of their successors. Lazy.
    pub(super) fn log_probs(&mut self, ids: &[u32]) -> Result<Array> {
        let hidden = self.hidden(ids)?.try_index(0)?; // (l, d)
        log_probs(&self.model.head(&hidden)?, self.model.vocab_size())
    }

    /// Ids as an array (l).
    pub(super) fn row(&self, ids: &[u32]) -> Result<Array> {
        Ok(self.array(ids)?.try_index(0)?)
    }

    /// Ids as an array (1, l).
    fn array(&self, ids: &[u32]) -> Result<Array> {
        tokens::check(&[ids], self.model.vocab_size())?;
        Ok(tokens::array(&[ids]))
    }

    /// Evaluates the state together with `others`.
    pub(super) fn settle(&self, others: &[&Array]) -> Result<()> {
        Ok(eval(self.arrays().chain(others.iter().copied()))?)
    }

    pub(super) fn arrays(&self) -> impl Iterator<Item = &Array> {
        M::arrays(&self.state).into_iter()
    }
}
