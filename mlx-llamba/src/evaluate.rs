//! How well a model predicts a text, and how far two models are apart on it.

use mlx_rs::Array;
use mlx_rs::ops::indexing::{TryIndexOp, argmax_axis, take_along_axis};
use mlx_rs::ops::{logsumexp_axis, sum};
use serde::Serialize;

use crate::error::{Error, Result};
use crate::host;
use crate::model::Model;

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
/// second token on. `progress` gets the tokens read and in all.
///
/// # Errors
/// [`Error::Option`] if the text has fewer than two tokens or the vocabularies differ.
pub fn compare(
    reference: &Model,
    other: &Model,
    ids: &[u32],
    mut progress: impl FnMut(usize, usize),
) -> Result<Comparison> {
    let vocab = reference.config().vocab_size;
    if other.config().vocab_size != vocab {
        return Err(Error::Option {
            option: "vocab_size",
            value: other.config().vocab_size.to_string(),
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
    let mut states = [reference.state(1)?, other.state(1)?];
    let mut sums = [0.0f64; 4];
    let mut done = 0;
    while done < predicted {
        let end = predicted.min(done + PIECE);
        let (tokens, _) = reference.tokens(&[&ids[done..end]])?;
        let (targets, _) = other.tokens(&[&ids[done + 1..end + 1]])?;
        let targets = targets.reshape(&[-1, 1])?; // (l, 1)
        let mut logs = Vec::with_capacity(2);
        for (model, state) in [reference, other].into_iter().zip(&mut states) {
            let (logits, next) = model.forward(&tokens, None, state)?;
            let logits = logits.try_index((0, .., ..vocab as i32))?; // (l, vocab)
            logs.push(logits.subtract(logsumexp_axis(&logits, -1, true)?)?);
            *state = next;
        }
        let [p, q] = [&logs[0], &logs[1]];
        let likelihood = |log: &Array| sum(take_along_axis(log, &targets, 1)?, None);
        let same = argmax_axis(p, -1, None)?.eq(argmax_axis(q, -1, None)?)?;
        let kl = sum(p.exp()?.multiply(p.subtract(q)?)?, None)?;
        let same = sum(same.as_dtype(mlx_rs::Dtype::Float32)?, None)?;
        for (total, part) in sums.iter_mut().zip([likelihood(p)?, likelihood(q)?, kl, same]) {
            *total += f64::from(host::floats(&part)?[0]);
        }
        states.iter().try_for_each(crate::State::eval)?;
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
