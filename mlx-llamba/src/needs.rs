//! The memory that a model takes, by its configuration alone.

use crate::checkpoint::{Kind, slots};
use crate::config::Config;

/// Tokens of a prompt that are dealt with at once.
const PIECE: usize = 512;
/// Layers whose activations are there at once: MLX makes room for some hundred operations before
/// they are computed, and a layer takes a dozen. Measured, with the kernels for CPUs.
const LAYERS_AHEAD: usize = 7;
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

    /// Bytes that running one sequence takes on a CPU beside the weights, about, at the most: while
    /// it reads a prompt of 512 tokens or more, in pieces of so many. Its states before and after,
    /// the float32 activations of the layers that MLX holds at once, and the logits of the last
    /// token. Weights are never there dequantized: the products read them as they are stored.
    pub fn working_bytes(&self) -> u64 {
        let (dims, d, mlp) = (self.dims(), self.d_model, self.mlp.intermediate_size);
        // Both projections of the mixer and what is between them, the MLP's likewise, and twice the
        // residual stream with its norm.
        let layer = dims.in_proj_dim() + dims.d_inner() + d + 3 * mlp + d + 4 * d;
        let activations = PIECE * layer * self.n_layer.min(LAYERS_AHEAD) + self.padded_vocab();
        (2 * self.state_bytes(4) + 4 * activations) as u64
    }
}
