//! Cross entropy of distributions over a vocabulary, and its gradient, in plain MLX operations.

use mlx_rs::error::Result;
use mlx_rs::ops::{logsumexp_axis, softmax_axis, sum};
use mlx_rs::{Array, Dtype};

/// The terms of a loss: cross entropy with a teacher's distribution and with the next token.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CrossEntropyOptions {
    /// `T`, by which both logits are divided before they are compared.
    pub temperature: f32,
    /// `w`, the weight of the teacher's term in the gradient.
    pub teacher_weight: f32,
    /// `v`, the weight of the next token's term in the gradient.
    pub next_weight: f32,
}

/// The result of [`Backend::cross_entropy`](crate::Backend::cross_entropy). Sums are over
/// positions.
#[derive(Debug, Clone)]
pub struct CrossEntropy {
    /// The gradient with respect to the logits (m, v), except for `-v` at each next token: the
    /// caller knows which those are.
    pub gradient: Array,
    /// Cross entropy of `softmax(logits / T)` with the teacher's.
    pub cross_entropy: Array,
    /// The same minus the teacher's entropy.
    pub kl: Array,
    /// `log sum e^logits`.
    pub log_sum: Array,
}

/// Implements [`Backend::cross_entropy`](crate::Backend::cross_entropy).
pub(crate) fn cross_entropy(
    logits: &Array,
    teacher: Option<&Array>,
    how: CrossEntropyOptions,
) -> Result<CrossEntropy> {
    let CrossEntropyOptions { temperature, teacher_weight, next_weight } = how;
    let dtype = logits.dtype();
    let logits = &logits.as_dtype(Dtype::Float32)?;
    let total = |array: &Array| sum(array, None);
    let scaled = |array: &Array, by: f32| match by {
        1.0 => Ok(array.clone()),
        _ => array.multiply(Array::from_f32(by)),
    };
    let log_sum = total(&logsumexp_axis(logits, -1, None)?)?;
    let Some(teacher) = teacher else {
        let gradient = scaled(&softmax_axis(logits, -1, None)?, next_weight)?.as_dtype(dtype)?;
        let zero = Array::from_f32(0.0);
        return Ok(CrossEntropy { gradient, cross_entropy: zero.clone(), kl: zero, log_sum });
    };
    let teacher = teacher.as_dtype(Dtype::Float32)?;
    let (s, t) = (scaled(logits, 1.0 / temperature)?, scaled(&teacher, 1.0 / temperature)?);
    let (p, q) = (softmax_axis(&t, -1, None)?, softmax_axis(&s, -1, None)?);
    let cross_entropy =
        total(&logsumexp_axis(&s, -1, None)?)?.subtract(total(&p.multiply(&s)?)?)?;
    let entropy = total(&logsumexp_axis(&t, -1, None)?)?.subtract(total(&p.multiply(&t)?)?)?;
    let mut gradient = scaled(&q.subtract(&p)?, teacher_weight)?;
    if next_weight != 0.0 {
        let q = if temperature == 1.0 { q } else { softmax_axis(logits, -1, None)? };
        gradient = gradient.add(scaled(&q, next_weight)?)?;
    }
    let gradient = gradient.as_dtype(dtype)?;
    Ok(CrossEntropy { gradient, kl: cross_entropy.subtract(entropy)?, cross_entropy, log_sum })
}
