//! The memory that a model takes, by its configuration alone.

use crate::checkpoint::{Kind, slots};
use crate::config::Config;

/// Tokens of a prompt that are dealt with at once.
const PIECE: usize = 512;
/// Entries of a matrix that share a scale and a bias.
const GROUP: usize = 64;

impl Config {
    /// Bytes of the weights: matrices with `bits` bits an entry in groups of 64 (affine), or dense
    /// for `None`; everything else, scales and biases too, in floats of `float_bytes` bytes.
    pub fn weight_bytes(&self, bits: Option<usize>, float_bytes: usize) -> u64 {
        let bytes = slots(self).into_iter().map(|slot| {
            let entries = slot.shape.iter().product::<usize>();
            match bits.filter(|_| slot.kind == Kind::Matrix) {
                Some(bits) => entries * bits / 8 + 2 * float_bytes * entries / GROUP,
                None => entries * float_bytes,
            }
        });
        bytes.map(|bytes| bytes as u64).sum()
    }

    /// Bytes that running one sequence takes on a CPU beside the weights, about, at the most, which
    /// is while it reads a prompt of 512 tokens or more: its state before and after, the float32
    /// activations of one block for so many tokens, and the logits of the last one. Weights are never
    /// there dequantized: the products read them as they are stored.
    pub fn working_bytes(&self) -> u64 {
        let width = self.dims().in_proj_dim() + 3 * self.mlp.intermediate_size + 6 * self.d_model;
        let activations = 4 * (PIECE * width + self.padded_vocab());
        (2 * self.state_bytes(4) + activations) as u64
    }
}
