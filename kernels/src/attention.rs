//! Attention of texts that share a ring of keys and values.

use mlx_rs::Array;
use mlx_rs::error::Result;
use mlx_rs::ops::{expand_dims, select, swap_axes};

/// One query a head of every row's text, and a ring of the keys and values of the texts.
///
/// The newest token stands at place `read` modulo `room`, the tokens before it at the places before.
#[derive(Debug, Clone, Copy)]
pub struct RingAttention<'a> {
    /// (b, h, k)
    pub queries: &'a Array,
    /// (b, g, room, k); g divides h.
    pub keys: &'a Array,
    /// As the keys.
    pub values: &'a Array,
    /// (b,) i32, the newest token's position in its text: so many tokens of it come before.
    pub positions: &'a Array,
    /// Tokens of each row that were written before the newest.
    pub read: usize,
    /// The factor of the scores.
    pub scale: f32,
    /// Limits attention to the last `.0` tokens of the text, including the newest, and its first `.1`.
    pub window: Option<(usize, usize)>,
}

impl RingAttention<'_> {
    /// (b, h, k), in plain MLX operations around a `softmax` of the last axis.
    pub(crate) fn plain(&self, softmax: impl Fn(&Array) -> Result<Array>) -> Result<Array> {
        let [b, h, k] = [0, 1, 2].map(|axis| self.queries.dim(axis));
        let (g, room) = (self.keys.dim(1), self.keys.dim(2));
        let read = self.read as i32;
        let ages: Vec<i32> = (0..room).map(|place| (read - place).rem_euclid(room)).collect();
        let ages = Array::from_slice(&ages, &[1, room]);
        let index = expand_dims(self.positions, -1)?.subtract(&ages)?; // (b, room), in the text
        let mut seen = index.ge(Array::from_int(0))?;
        if let Some((size, sinks)) = self.window {
            let bound = |tokens: usize| Array::from_int(i32::try_from(tokens).unwrap_or(i32::MAX));
            let near = ages.lt(bound(size))?;
            seen = seen.logical_and(near.logical_or(index.lt(bound(sinks))?)?)?;
        }
        let scale = Array::from_f32(self.scale).as_dtype(self.queries.dtype())?;
        // The query heads of a group are adjacent: the rows of one matrix.
        let queries = self.queries.multiply(scale)?.reshape(&[b, g, h / g, k])?;
        let scores = queries.matmul(swap_axes(self.keys, -1, -2)?)?; // (b, g, h/g, room)
        let never = Array::from_f32(f32::NEG_INFINITY).as_dtype(scores.dtype())?;
        let scores = select(seen.reshape(&[b, 1, 1, room])?, &scores, never)?;
        softmax(&scores)?.matmul(self.values)?.reshape(&[b, h, k])
    }
}
