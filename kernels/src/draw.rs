//! Sampling of a token by the largest of logit plus Gumbel noise.

use mlx_rs::error::Result;
use mlx_rs::ops::indexing::{TryIndexOp, argmax_axis};
use mlx_rs::ops::{concatenate, max_axis, maximum, select};
use mlx_rs::{Array, Dtype, random};

use crate::random_key::RandomKey;

/// A draw from `softmax(logits / temperature)`.
#[derive(Debug, Clone, Copy)]
pub struct Draw<'a> {
    /// Entries of a row that count; those behind are padding.
    pub vocab: usize,
    /// Above 0.
    pub temperature: f32,
    /// Tokens whose logit, divided by the temperature, is more than this below the largest one are not
    /// drawn; at least 0, infinite to draw from all.
    pub depth: f32,
    /// The random generator's key of each row.
    pub keys: &'a [RandomKey],
}

impl Draw<'_> {
    /// The keys as an array (b, 2) u32.
    pub(crate) fn key_array(&self) -> Array {
        let words: Vec<u32> = self.keys.iter().flat_map(|key| key.0).collect();
        Array::from_slice(&words, &[self.keys.len() as i32, 2])
    }

    /// One draw a row of `logits` (b, width): (b,) u32, in plain MLX operations.
    pub(crate) fn plain(&self, logits: &Array) -> Result<Array> {
        let x = logits.try_index((.., ..self.vocab as i32))?.as_dtype(Dtype::Float32)?;
        let scalar = Array::from_f32;
        let x = x.subtract(max_axis(&x, 1, true)?)?.divide(scalar(self.temperature))?;
        let banned = scalar(f32::NEG_INFINITY);
        let x = match self.depth < f32::INFINITY {
            true => select(x.ge(scalar(-self.depth))?, &x, banned)?,
            false => x,
        };
        gumbel_max(&x, self.keys)
    }
}

/// One draw a row from `softmax(x)`, x (b, vocab) float32: (b,) u32, the largest of logit plus Gumbel
/// noise. Lazy.
///
/// The noise has a lower bound, so that a token with `-inf` never wins, even if the only other one
/// draws `-inf`.
fn gumbel_max(x: &Array, keys: &[RandomKey]) -> Result<Array> {
    let of_row = |key: &RandomKey| {
        random::gumbel::<f32>(&[1, x.dim(1)], &Array::from_slice(&key.0, &[2])) // (1, vocab)
    };
    let noise = match keys {
        [key] => of_row(key)?,
        keys => concatenate(&keys.iter().map(of_row).collect::<Result<Vec<_>>>()?, 0)?,
    }; // (b, vocab)
    let noise = maximum(noise, Array::from_f32(-30.0))?;
    argmax_axis(x.add(noise)?, 1, false)
}
