//! Distributions over a vocabulary, compared.

use mlx_rs::Array;
use mlx_rs::error::Result;
use mlx_rs::ops::{split_at_indices, sum_axis};

use super::raw;
use crate::cross_entropy::{Comparison, Slopes};

/// See [`Backend::cross_entropy`](crate::Backend::cross_entropy); shapes and dtypes have been
/// checked.
pub(crate) fn cross_entropy(
    logits: &Array,
    teacher: Option<&Array>,
    how: Comparison,
) -> Result<Slopes> {
    let [slopes, sums] = raw::cross_entropy(logits, teacher, how)?; // (m, v), (m, 3)
    let sums = split_at_indices(&sum_axis(&sums, 0, None)?, &[1, 2], 0)?;
    let [cross_entropy, kl, log_sum] = &sums[..] else {
        return Err("three sums are not three".into());
    };
    Ok(Slopes {
        slopes,
        cross_entropy: cross_entropy.reshape(&[])?,
        kl: kl.reshape(&[])?,
        log_sum: log_sum.reshape(&[])?,
    })
}
