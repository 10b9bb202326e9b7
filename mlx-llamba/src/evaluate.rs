//! How well a model predicts a text, and how far two models are apart on it.

use mlx_rs::Array;
use mlx_rs::ops::indexing::{TryIndexOp, argmax_axis, take_along_axis};
use mlx_rs::ops::{logsumexp_axis, sum};
use mlx_rs::transforms::eval;
use serde::Serialize;

use crate::error::{Error, Result};
use crate::host;
use crate::language::{LanguageModel, tokens};

/// Tokens read in one piece.
const PIECE: usize = 256;

/// Two models on one text, in nats unless said otherwise.
#[non_exhaustive]
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Comparison {
    /// Tokens predicted.
    pub tokens: usize,
    /// `exp` of the reference's mean negative log-likelihood.
    pub reference_perplexity: f64,
    /// The same of the other model.
    pub perplexity: f64,
    /// Mean over tokens of KL(reference || other).
    pub mean_kl: f64,
    /// Share of tokens on which both find the same one likeliest.
    pub top1_agreement: f64,
}

/// Reads `ids` with both models, in constant memory, and compares what they predict from the
/// second token on. Where one of them can read only so far
/// ([`context_length`](LanguageModel::context_length)), both begin anew there. `progress` gets the tokens read and in all.
///
/// # Errors
/// [`Error::Option`] if the text has fewer than two tokens or the vocabularies differ.
pub fn compare<R: LanguageModel, M: LanguageModel>(
    reference: &R,
    other: &M,
    ids: &[u32],
    mut progress: impl FnMut(usize, usize),
) -> Result<Comparison> {
    let vocab = reference.vocab_size();
    if other.vocab_size() != vocab {
        return Err(Error::Option {
            option: "vocab_size",
            value: other.vocab_size().to_string(),
            expected: format!("{vocab}, as in the reference"),
        });
    }
    let predicted = ids.len().saturating_sub(1);
    if predicted == 0 {
        return Err(Error::Option {
            option: "text",
            value: format!("{} tokens", ids.len()),
            expected: "at least 2 tokens".into(),
        });
    }
    let window = [reference.context_length(), other.context_length()];
    let window = window.into_iter().flatten().min().unwrap_or(usize::MAX).max(1);
    let (mut first, mut second) = (Side::new(reference)?, Side::new(other)?);
    let mut sums = [0.0f64; 4];
    let mut done = 0;
    while done < predicted {
        if done > 0 && done.is_multiple_of(window) {
            (first, second) = (Side::new(reference)?, Side::new(other)?);
        }
        let end = predicted.min(done + PIECE).min(done + window - done % window);
        let targets = tokens(&[&ids[done + 1..end + 1]], vocab)?; // (1, l)
        let tokens = tokens(&[&ids[done..end]], vocab)?; // (1, l)
        let targets = targets.reshape(&[-1, 1])?; // (l, 1)
        let [p, q] = [&first.read(&tokens)?, &second.read(&tokens)?]; // (l, vocab)
        let likelihood = |log: &Array| sum(take_along_axis(log, &targets, 1)?, None);
        let same = argmax_axis(p, -1, None)?.eq(argmax_axis(q, -1, None)?)?;
        let kl = sum(p.exp()?.multiply(p.subtract(q)?)?, None)?;
        let same = sum(same.as_dtype(mlx_rs::Dtype::Float32)?, None)?;
        for (total, part) in sums.iter_mut().zip([likelihood(p)?, likelihood(q)?, kl, same]) {
            *total += f64::from(host::floats(&part)?[0]);
        }
        eval(first.arrays().into_iter().chain(second.arrays()))?;
        done = end;
        progress(done, predicted);
    }
    let mean = |total: f64| total / predicted as f64;
    Ok(Comparison {
        tokens: predicted,
        reference_perplexity: (-mean(sums[0])).exp(),
        perplexity: (-mean(sums[1])).exp(),
        mean_kl: mean(sums[2]),
        top1_agreement: mean(sums[3]),
    })
}

/// A model and how far it has read.
struct Side<'m, M: LanguageModel> {
    model: &'m M,
    state: M::State,
}

impl<'m, M: LanguageModel> Side<'m, M> {
    fn new(model: &'m M) -> Result<Self> {
        Ok(Self { model, state: model.start()? })
    }

    /// Log-probabilities (l, vocab) of what follows each token (1, l).
    fn read(&mut self, tokens: &Array) -> Result<Array> {
        let (hidden, state) = self.model.read(tokens, self.state.clone())?;
        self.state = state;
        let vocab = self.model.vocab_size() as i32;
        let logits = self.model.head(&hidden)?.try_index((0, .., ..vocab))?; // (l, vocab)
        Ok(logits.subtract(logsumexp_axis(&logits, -1, true)?)?)
    }

    fn arrays(&self) -> Vec<&Array> {
        M::arrays(&self.state)
    }
}
