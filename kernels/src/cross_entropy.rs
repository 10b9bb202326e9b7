//! Distributions over a vocabulary, compared, in plain MLX operations.

use mlx_rs::Array;
use mlx_rs::error::Result;
use mlx_rs::ops::{logsumexp_axis, softmax_axis, sum};

/// How logits are compared with a teacher's and with the token that follows.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Comparison {
    /// What both logits are divided by before they are compared, `T`.
    pub temperature: f32,
    /// `w`, of the slopes that the teacher gives.
    pub teacher_weight: f32,
    /// `v`, of the slopes that the next token gives.
    pub next_weight: f32,
}

/// What [`Backend::cross_entropy`](crate::Backend::cross_entropy) gives.
#[derive(Debug, Clone)]
pub struct Slopes {
    /// (m, v)
    pub slopes: Array,
    /// Of `softmax(logits / T)` with the teacher's, the sum over positions.
    pub cross_entropy: Array,
    /// The same less the teacher's entropy.
    pub kl: Array,
    /// `log sum e^logits`, the sum over positions.
    pub log_sum: Array,
}

/// See [`Backend::cross_entropy`](crate::Backend::cross_entropy).
pub(crate) fn cross_entropy(
    logits: &Array,
    teacher: Option<&Array>,
    how: Comparison,
) -> Result<Slopes> {
    let Comparison { temperature, teacher_weight, next_weight } = how;
    let total = |array: &Array| sum(array, None);
    let scaled = |array: &Array, by: f32| match by {
        1.0 => Ok(array.clone()),
        _ => array.multiply(Array::from_f32(by)),
    };
    let log_sum = total(&logsumexp_axis(logits, -1, None)?)?;
    let Some(teacher) = teacher else {
        let slopes = scaled(&softmax_axis(logits, -1, None)?, next_weight)?;
        let zero = Array::from_f32(0.0);
        return Ok(Slopes { slopes, cross_entropy: zero.clone(), kl: zero, log_sum });
    };
    let (s, t) = (scaled(logits, 1.0 / temperature)?, scaled(teacher, 1.0 / temperature)?);
    let (p, q) = (softmax_axis(&t, -1, None)?, softmax_axis(&s, -1, None)?);
    let cross_entropy =
        total(&logsumexp_axis(&s, -1, None)?)?.subtract(total(&p.multiply(&s)?)?)?;
    let entropy = total(&logsumexp_axis(&t, -1, None)?)?.subtract(total(&p.multiply(&t)?)?)?;
    let mut slopes = scaled(&q.subtract(&p)?, teacher_weight)?;
    if next_weight != 0.0 {
        let q = if temperature == 1.0 { q } else { softmax_axis(logits, -1, None)? };
        slopes = slopes.add(scaled(&q, next_weight)?)?;
    }
    Ok(Slopes { slopes, kl: cross_entropy.subtract(entropy)?, cross_entropy, log_sum })
}
