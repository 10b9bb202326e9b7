//! Predictions of models as arrays.

use mlx_rs::ops::indexing::{Ellipsis, TryIndexOp, argmax_axis, take_along_axis};
use mlx_rs::{Array, Dtype};

use crate::error::Result;
use crate::sample::log_softmax;

/// Converts logits (.., at least vocab) to natural log-probabilities (.., vocab), float32.
///
/// # Errors
/// MLX's own.
pub fn log_probs(logits: &Array, vocab: usize) -> Result<Array> {
    let logits = logits.as_dtype(Dtype::Float32)?;
    Ok(log_softmax(&logits.try_index((Ellipsis, ..vocab as i32))?)?)
}

/// Returns the negative log-likelihoods (..) of the tokens `next` (..) under log-probabilities (.., vocab).
///
/// # Errors
/// MLX's own.
pub fn losses(log_probs: &Array, next: &Array) -> Result<Array> {
    let taken = take_along_axis(log_probs, next.expand_dims(-1)?, -1)?; // (.., 1)
    Ok(taken.squeeze_axes(&[-1])?.negative()?)
}

/// Returns KL(p || q) (..), in nats, of log-probabilities (.., vocab).
///
/// # Errors
/// MLX's own.
pub fn divergences(p: &Array, q: &Array) -> Result<Array> {
    Ok(p.exp()?.multiply(p.subtract(q)?)?.sum_axis(-1, false)?)
}

/// Returns 1 where both have the same top-1 token, else 0: (..) of log-probabilities (.., vocab).
///
/// # Errors
/// MLX's own.
pub fn agreements(p: &Array, q: &Array) -> Result<Array> {
    let same = argmax_axis(p, -1, None)?.eq(argmax_axis(q, -1, None)?)?;
    Ok(same.as_dtype(Dtype::Float32)?)
}
