//! Sampling of the next token: [`Sampling`] holds the options, [`Sampler`] draws.
//!
//! Everything is a lazy graph of MLX operations. Nothing is evaluated here, so the sampled token can
//! be the input of the next forward pass before the host reads it.

mod history;
mod logprobs;
mod options;
#[cfg(test)]
mod tests;
mod transform;

use mlx_llamba_kernels::{Backend, Draw, ShapeError};
use mlx_rs::ops::indexing::{TryIndexOp, argmax_axis};
use mlx_rs::{Array, Dtype, random};

use crate::{Error, Result};
use history::History;
pub use logprobs::Logprobs;
pub use options::Sampling;
use transform::Bias;
pub(crate) use transform::log_softmax;

/// Samples tokens step by step for every row of a batch.
///
/// It carries the random generator's key and, for penalties, the tokens so far. A clone continues
/// independently.
///
/// All rows of a batch draw from one generator: a run is reproduced by the same seed and the same
/// batch size.
#[derive(Debug, Clone)]
pub struct Sampler {
    sampling: Sampling,
    backend: Backend,
    seed: u64,
    key: Array, // (2), u32
    vocab: usize,
    bias: Option<Bias>,
    context: Option<History>,
    output: Option<History>,
}

impl Sampler {
    /// Creates a sampler for a vocabulary of `vocab` entries without padding.
    ///
    /// # Errors
    /// [`Error::Argument`] if [`Sampling::validate`] refuses the options.
    pub fn new(sampling: &Sampling, vocab: usize) -> Result<Self> {
        sampling.validate(vocab)?;
        let seed = sampling.seed.unwrap_or_else(entropy);
        let history = |wanted: bool| wanted.then(|| History::new(vocab, sampling.penalty_window));
        Ok(Self {
            backend: Backend::PLAIN,
            seed,
            key: random::key(seed)?,
            vocab,
            bias: Bias::new(&sampling.logit_bias, vocab),
            context: history(sampling.repetition_penalty != 1.0),
            output: history(sampling.frequency_penalty != 0.0 || sampling.presence_penalty != 0.0),
            sampling: sampling.clone(),
        })
    }

    /// Draws with a back end's kernel where it has one. The tokens are the same.
    #[must_use]
    pub fn with_backend(self, backend: Backend) -> Self {
        Self { backend, ..self }
    }

    /// The seed in use: that of the options, or a random one.
    #[must_use]
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// Adds tokens that were not sampled here, those of the prompt, to the history.
    ///
    /// | arg | shape | dtype |
    /// |---|---|---|
    /// | tokens | (b, l), or (1, l) for a prompt that all rows share | u32 |
    ///
    /// Ids outside the vocabulary are ignored; they can serve as padding of rows shorter than l (on
    /// the left, if there is a penalty window). Does nothing without a repetition penalty.
    ///
    /// # Errors
    /// [`Error::Shape`] if `tokens` does not have two axes.
    pub fn observe(&mut self, tokens: &Array) -> Result<()> {
        if tokens.ndim() != 2 {
            return Err(shape("tokens", tokens, "(b, l)".to_owned()));
        }
        match &mut self.context {
            Some(context) => Ok(context.push(tokens)?),
            None => Ok(()),
        }
    }

    /// Samples one token per row and adds it to the history. Lazy.
    ///
    /// | | shape | dtype |
    /// |---|---|---|
    /// | logits | (b, v), v at least the vocabulary | f32, f16, bf16 |
    /// | result | (b) | u32 |
    ///
    /// # Errors
    /// [`Error::Shape`] if `logits` has another shape.
    pub fn sample(&mut self, logits: &Array) -> Result<Array> {
        let Sampling { temperature, repetition_penalty, frequency_penalty, top_k, top_p, .. } =
            self.sampling;
        let changed = self.bias.is_some() || self.context.is_some() || self.output.is_some();
        if temperature >= Sampling::GREEDY_BELOW && top_k == 0 && top_p >= 1.0 && !changed {
            return self.draw(logits, temperature);
        }
        let mut x = self.real_entries(logits)?; // (b, vocab)
        if let Some(bias) = &self.bias {
            x = bias.apply(&x)?;
        }
        if let Some(counts) = self.context.as_ref().map(History::counts).transpose()?.flatten() {
            x = transform::repetition(&x, &counts, repetition_penalty)?;
        }
        if let Some(counts) = self.output.as_ref().map(History::counts).transpose()?.flatten() {
            let presence = self.sampling.presence_penalty;
            x = transform::frequency_presence(&x, &counts, frequency_penalty, presence)?;
        }
        let token = if temperature < Sampling::GREEDY_BELOW {
            argmax_axis(&x, 1, false)? // (b)
        } else {
            x = transform::temperature(&x, temperature)?;
            x = transform::truncate(&x, top_k, top_p)?;
            self.draw(&x, 1.0)? // (b)
        };
        for history in [&mut self.context, &mut self.output].into_iter().flatten() {
            history.push(&token.reshape(&[-1, 1])?)?;
        }
        Ok(token)
    }

    /// Adds a token that needs no sampling. The tokens after it are those that would follow if it had
    /// been sampled.
    pub(crate) fn force(&mut self, id: u32) -> Result<()> {
        if self.sampling.temperature >= Sampling::GREEDY_BELOW {
            self.key = random::split(&self.key, 2)?.0;
        }
        let token = Array::from_slice(&[id], &[1, 1]);
        for history in [&mut self.context, &mut self.output].into_iter().flatten() {
            history.push(&token)?;
        }
        Ok(())
    }

    /// Draws a token for every row of `logits` (b, v), with the share of [`Sampling::min_p`].
    fn draw(&mut self, logits: &Array, temperature: f32) -> Result<Array> {
        let (next, key) = random::split(&self.key, 2)?;
        self.key = next;
        let depth = -self.sampling.min_p.ln();
        let draw = Draw { vocab: self.vocab, temperature, depth, key: &key };
        Ok(self.backend.draw(logits, &draw)?)
    }

    /// Returns natural log-probabilities under the model itself: before bias, penalties, temperature
    /// and truncation, over the vocabulary without padding. Lazy.
    ///
    /// | | shape | dtype |
    /// |---|---|---|
    /// | logits | (b, v), v at least the vocabulary | f32, f16, bf16 |
    /// | chosen | (b) | u32 |
    ///
    /// `top` is the number of most likely tokens to report, at most the whole vocabulary.
    ///
    /// # Errors
    /// [`Error::Shape`] if `logits` or `chosen` has another shape.
    pub fn logprobs(&self, logits: &Array, chosen: &Array, top: usize) -> Result<Logprobs> {
        let logits = self.real_entries(logits)?;
        if chosen.shape() != [logits.dim(0)] {
            return Err(shape("chosen", chosen, format!("[{}]", logits.dim(0))));
        }
        Ok(Logprobs::new(&logits, chosen, top.min(self.vocab))?)
    }

    /// Returns the random generator's state after the tokens sampled so far. Evaluates it (8 bytes).
    ///
    /// # Errors
    /// [`Error::Mlx`] if MLX cannot evaluate it.
    pub fn rng_state(&self) -> Result<[u32; 2]> {
        self.key.eval()?;
        let half = |i: i32| -> Result<u32> {
            let word = self.key.try_index(i)?.try_item_exact::<u32>();
            word.map_err(|e| Error::Mlx(mlx_rs::error::Exception::custom(e.to_string())))
        };
        Ok([half(0)?, half(1)?])
    }

    /// Restores a state returned by [`Sampler::rng_state`].
    pub fn restore(&mut self, rng: [u32; 2]) {
        self.key = Array::from_slice(&rng, &[2]);
    }

    /// Removes the padding of the vocabulary from logits. Returns (b, vocab), float32.
    pub(crate) fn real_entries(&self, logits: &Array) -> Result<Array> {
        let vocab = self.vocab as i32;
        if logits.ndim() != 2 || logits.dim(1) < vocab {
            return Err(shape("logits", logits, format!("(b, {vocab} or more)")));
        }
        Ok(logits.try_index((.., ..vocab))?.as_dtype(Dtype::Float32)?)
    }
}

fn shape(array: &'static str, found: &Array, expected: String) -> Error {
    Error::Shape(ShapeError { array, found: found.shape().to_vec(), expected })
}

/// Returns a seed from the system's randomness.
fn entropy() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    std::hash::RandomState::new().build_hasher().finish()
}
