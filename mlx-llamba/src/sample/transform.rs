//! The steps of sampling, each a function of logits `x` (b, vocab), float32. All lazy.
//!
//! A token that cannot be sampled has the logit `-inf`.

use mlx_llamba_kernels::scan::cumsum;
use mlx_rs::Array;
use mlx_rs::Dtype;
use mlx_rs::error::Result;
use mlx_rs::ops::indexing::{take_along_axis, topk_axis};
use mlx_rs::ops::{
    broadcast_to, gt, logsumexp_axis, max_axis, minimum, negative, select, softmax_axis, sort_axis,
    sum_axis,
};

fn scalar(value: f32) -> Array {
    Array::from_f32(value)
}

fn banned() -> Array {
    scalar(f32::NEG_INFINITY)
}

/// Biases (1, vocab) added to the logits.
#[derive(Debug, Clone)]
pub(crate) struct Bias(Array);

impl Bias {
    /// Creates the biases; `None` without pairs. The options have checked that ids are in the
    /// vocabulary.
    pub(crate) fn new(pairs: &[(u32, f32)], vocab: usize) -> Option<Self> {
        if pairs.is_empty() {
            return None;
        }
        let mut dense = vec![0.0f32; vocab];
        for &(id, bias) in pairs {
            if let Some(entry) = dense.get_mut(id as usize) {
                *entry = bias;
            }
        }
        if dense.contains(&f32::INFINITY) {
            for entry in &mut dense {
                *entry = if *entry == f32::INFINITY { 0.0 } else { f32::NEG_INFINITY };
            }
        }
        Some(Self(Array::from_slice(&dense, &[1, vocab as i32])))
    }

    pub(crate) fn apply(&self, x: &Array) -> Result<Array> {
        x.add(&self.0)
    }
}

/// CTRL (arXiv 1909.05858): `x / r` if positive, else `x * r`, where `counts` (b, vocab) > 0.
pub(crate) fn repetition(x: &Array, counts: &Array, r: f32) -> Result<Array> {
    let r = scalar(r);
    let penalised = select(gt(x, scalar(0.0))?, x.divide(&r)?, x.multiply(&r)?)?;
    select(gt(counts, scalar(0.0))?, penalised, x)
}

/// `x - frequency * counts - presence * (counts > 0)`, with `counts` (b, vocab).
pub(crate) fn frequency_presence(
    x: &Array,
    counts: &Array,
    frequency: f32,
    presence: f32,
) -> Result<Array> {
    let once = minimum(counts, scalar(1.0))?;
    let penalty = counts.multiply(scalar(frequency))?.add(once.multiply(scalar(presence))?)?;
    x.subtract(penalty)
}

/// `(x - max x) / t`: the largest becomes 0, so that no small t makes infinities.
pub(crate) fn temperature(x: &Array, t: f32) -> Result<Array> {
    x.subtract(max_axis(x, 1, true)?)?.divide(scalar(t))
}

/// Top-k, then top-p over the tokens that top-k keeps. k = 0 and p = 1 keep everything.
///
/// Sorts the vocabulary at most once, by value; with k > 0 only k values.
pub(crate) fn truncate(x: &Array, k: usize, p: f32) -> Result<Array> {
    let vocab = x.dim(1);
    let k = i32::try_from(k).ok().filter(|&k| k > 0 && k < vocab);
    if k.is_none() && p >= 1.0 {
        return Ok(x.clone());
    }
    let largest = match k {
        Some(k) => topk_axis(x, k, 1)?, // (b, k)
        None => x.clone(),              // (b, vocab)
    };
    let m = largest.dim(1);
    let sorted = negative(sort_axis(negative(&largest)?, 1)?)?; // (b, m), largest first
    let keep = if p >= 1.0 {
        Array::from_slice(&[m as f32], &[1, 1])
    } else {
        let reached = cumsum(&softmax_axis(&sorted, 1, true)?)?; // (b, m)
        let before = sum_axis(count_of(&reached.lt(scalar(p))?)?, 1, true)?; // (b, 1)
        minimum(before.add(scalar(1.0))?, scalar(m as f32))? // the one that crosses p stays
    };
    let last = keep.subtract(scalar(1.0))?.as_dtype(Dtype::Uint32)?; // (b or 1, 1)
    let border = take_along_axis(&sorted, broadcast_to(&last, &[x.dim(0), 1])?, 1)?;
    // Of the entries equal to the border only the first few stay: (b, vocab) masks from here on.
    let above = x.gt(&border)?;
    let equal = x.eq(&border)?;
    let room = keep.subtract(sum_axis(count_of(&above)?, 1, true)?)?; // (b, 1)
    let nth = cumsum(&count_of(&equal)?)?; // (b, vocab)
    let kept = above.logical_or(equal.logical_and(nth.le(&room)?)?)?;
    select(kept, x, banned())
}

/// Converts a mask to float32, which counts a vocabulary exactly.
fn count_of(mask: &Array) -> Result<Array> {
    mask.as_dtype(Dtype::Float32)
}

/// Natural logarithms of the probabilities, (.., vocab).
pub(crate) fn log_softmax(x: &Array) -> Result<Array> {
    x.subtract(logsumexp_axis(x, -1, true)?)
}
