//! Log-probabilities of the chosen token and of the most likely tokens.

use mlx_rs::error::Result;
use mlx_rs::ops::indexing::{TryIndexOp, take_along_axis};
use mlx_rs::ops::{argpartition_axis, argsort_axis, negative, sort_axis, zeros};
use mlx_rs::{Array, Dtype};

use super::transform::log_softmax;

/// Natural log-probabilities of one step under the model itself. Lazy.
#[non_exhaustive]
#[derive(Debug, Clone)]
pub struct Logprobs {
    /// Those of the chosen tokens: (b), float32.
    pub chosen: Array,
    /// The most likely tokens in descending order: (b, top), u32.
    pub top_ids: Array,
    /// Their log-probabilities: (b, top), float32.
    pub top: Array,
}

impl Logprobs {
    /// `logits` (b, vocab), float32; `chosen` (b), u32; `top` at most vocab.
    pub(crate) fn new(logits: &Array, chosen: &Array, top: usize) -> Result<Self> {
        let all = log_softmax(logits)?; // (b, vocab)
        let (b, vocab, top) = (all.dim(0), all.dim(1), top as i32);
        let chosen = take_along_axis(&all, chosen.reshape(&[b, 1])?, 1)?.reshape(&[b])?;
        if top == 0 {
            // MLX aborts the process when it sorts an empty array.
            let (top_ids, top) = (zeros::<u32>(&[b, 0])?, zeros::<f32>(&[b, 0])?);
            return Ok(Self { chosen, top_ids, top });
        }
        let ids = match top {
            _ if top == vocab => argsort_axis(negative(&all)?, 1)?,
            _ => argpartition_axis(negative(&all)?, top - 1, 1)?.try_index((.., ..top))?,
        };
        // Sorted by id, then stably by value: equal values are in the order of their ids.
        let ids = sort_axis(ids, 1)?.as_dtype(Dtype::Uint32)?; // (b, top)
        let values = take_along_axis(&all, &ids, 1)?; // (b, top)
        let order = argsort_axis(negative(&values)?, 1)?; // (b, top)
        let top_ids = take_along_axis(&ids, &order, 1)?;
        let top = take_along_axis(&values, &order, 1)?;
        Ok(Self { chosen, top_ids, top })
    }
}
