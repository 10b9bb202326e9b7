//! Cross entropy of distributions over a vocabulary, and its gradient.

use mlx_rs::Array;
use mlx_rs::error::Result;
use mlx_rs::ops::{split_at_indices, sum_axis};

use super::raw;
use crate::cross_entropy::{CrossEntropy, CrossEntropyOptions};

/// Implements [`Backend::cross_entropy`](crate::Backend::cross_entropy); shapes and dtypes have
/// been checked.
pub(crate) fn cross_entropy(
    logits: &Array,
    teacher: Option<&Array>,
    how: CrossEntropyOptions,
) -> Result<CrossEntropy> {
    let [gradient, sums] = raw::cross_entropy(logits, teacher, how)?; // (m, v), (m, 3)
    let sums = split_at_indices(&sum_axis(&sums, 0, None)?, &[1, 2], 0)?;
    let [cross_entropy, kl, log_sum] = &sums[..] else {
        return Err("three sums are not three".into());
    };
    Ok(CrossEntropy {
        gradient,
        cross_entropy: cross_entropy.reshape(&[])?,
        kl: kl.reshape(&[])?,
        log_sum: log_sum.reshape(&[])?,
    })
}
