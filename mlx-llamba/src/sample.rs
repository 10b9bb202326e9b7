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

use mlx_llamba_kernels::{Backend, Draw, RandomKey, ShapeError};
use mlx_rs::ops::concatenate;
use mlx_rs::ops::indexing::{TryIndexOp, argmax_axis, take_axis};
use mlx_rs::{Array, Dtype};

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
/// The rows of a batch draw with keys split from the sampler's: a run is reproduced by the same seed and
/// the same batch size.
#[derive(Debug, Clone)]
pub struct Sampler {
    sampling: Sampling,
    backend: Backend,
    seed: u64,
    key: RandomKey,
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
            key: RandomKey::new(seed),
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
        let keys = match self.next_key() {
            key if logits.shape().first() == Some(&1) => vec![key],
            key => key.split(logits.shape().first().copied().unwrap_or(0) as u32),
        };
        self.choose(logits, &keys)
    }

    /// Samples one token for each of `samplers`, which are of one row, from its row of `logits` (b, v):
    /// (b,) u32. Lazy. The tokens are those that each would sample alone; samplers with the same options
    /// share their operations.
    pub(crate) fn sample_each(samplers: &mut [&mut Self], logits: &Array) -> Result<Array> {
        let mut groups: Vec<Vec<usize>> = Vec::new();
        for (i, sampler) in samplers.iter().enumerate() {
            match groups.iter_mut().find(|group| sampler.is_like(samplers[group[0]])) {
                Some(group) => group.push(i),
                None => groups.push(vec![i]),
            }
        }
        if let [_] = groups[..] {
            return Self::sample_alike(samplers, logits);
        }
        let mut tokens = Vec::with_capacity(groups.len());
        let mut samplers: Vec<Option<&mut Self>> =
            samplers.iter_mut().map(|s| Some(&mut **s)).collect();
        for group in &groups {
            let rows = take_axis(logits, places(group), 0)?;
            let mut alike: Vec<&mut Self> =
                group.iter().filter_map(|&i| samplers[i].take()).collect();
            tokens.push(Self::sample_alike(&mut alike, &rows)?);
        }
        let order = groups.concat();
        let mut place = vec![0; order.len()];
        order.iter().enumerate().for_each(|(at, &i)| place[i] = at);
        Ok(take_axis(concatenate(&tokens, 0)?, places(&place), 0)?)
    }

    /// As [`sample_each`](Self::sample_each), for samplers with the same options.
    fn sample_alike(samplers: &mut [&mut Self], logits: &Array) -> Result<Array> {
        let keys: Vec<RandomKey> = samplers.iter_mut().map(|sampler| sampler.next_key()).collect();
        if let [sampler] = samplers {
            return sampler.choose(logits, &keys);
        }
        let Some(first) = samplers.first() else { return Ok(Array::from_slice::<u32>(&[], &[0])) };
        let stack = |which: fn(&Self) -> Option<&History>| {
            History::stack(
                &samplers.iter().filter_map(|sampler| which(sampler)).collect::<Vec<_>>(),
            )
        };
        let mut all = Self {
            context: stack(|sampler| sampler.context.as_ref())?,
            output: stack(|sampler| sampler.output.as_ref())?,
            ..(**first).clone()
        };
        let tokens = all.choose(logits, &keys)?;
        for (i, sampler) in samplers.iter_mut().enumerate() {
            sampler.context = all.context.as_ref().map(|history| history.row(i));
            sampler.output = all.output.as_ref().map(|history| history.row(i));
        }
        Ok(tokens)
    }

    /// Returns true if the two differ in their random numbers and histories alone. Biases may be as
    /// long as the vocabulary, too long to compare at every step: a sampler with such is like no other.
    fn is_like(&self, other: &Self) -> bool {
        let unbiased = self.bias.is_none() && other.bias.is_none();
        unbiased && self.vocab == other.vocab && self.sampling.same_numbers(&other.sampling)
    }

    /// Chooses a token for every row of `logits` (b, v) with its key and adds it to the history.
    fn choose(&mut self, logits: &Array, keys: &[RandomKey]) -> Result<Array> {
        let Sampling { temperature, repetition_penalty, frequency_penalty, top_k, top_p, .. } =
            self.sampling;
        let changed = self.bias.is_some() || self.context.is_some() || self.output.is_some();
        if temperature >= Sampling::GREEDY_BELOW && top_k == 0 && top_p >= 1.0 && !changed {
            return self.draw(logits, temperature, keys);
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
            self.draw(&x, 1.0, keys)? // (b)
        };
        for history in [&mut self.context, &mut self.output].into_iter().flatten() {
            history.push(&token.reshape(&[-1, 1])?)?;
        }
        Ok(token)
    }

    /// Adds a token that needs no sampling. The tokens after it are those that would follow if it had
    /// been sampled.
    pub(crate) fn force(&mut self, id: u32) -> Result<()> {
        self.next_key();
        let token = Array::from_slice(&[id], &[1, 1]);
        for history in [&mut self.context, &mut self.output].into_iter().flatten() {
            history.push(&token)?;
        }
        Ok(())
    }

    /// Draws a token for every row of `logits` (b, v), with the share of [`Sampling::min_p`].
    fn draw(&self, logits: &Array, temperature: f32, keys: &[RandomKey]) -> Result<Array> {
        let depth = -self.sampling.min_p.ln();
        Ok(self.backend.draw(logits, &Draw { vocab: self.vocab, temperature, depth, keys })?)
    }

    /// Returns the key of the next token, which only a draw needs.
    fn next_key(&mut self) -> RandomKey {
        if self.sampling.temperature < Sampling::GREEDY_BELOW {
            return self.key;
        }
        let keys = self.key.split(2);
        self.key = keys[0];
        keys[1]
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

    /// Returns the random generator's state after the tokens sampled so far.
    #[must_use]
    pub fn rng_state(&self) -> [u32; 2] {
        self.key.0
    }

    /// Restores a state returned by [`Sampler::rng_state`].
    pub fn restore(&mut self, rng: [u32; 2]) {
        self.key = RandomKey(rng);
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

fn places(rows: &[usize]) -> Array {
    let rows: Vec<i32> = rows.iter().map(|&row| row as i32).collect();
    Array::from_slice(&rows, &[rows.len() as i32])
}

fn shape(array: &'static str, found: &Array, expected: String) -> Error {
    Error::Shape(ShapeError { array, found: found.shape().to_vec(), expected })
}

/// Returns a seed from the system's randomness.
fn entropy() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    std::hash::RandomState::new().build_hasher().finish()
}
