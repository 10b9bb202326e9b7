//! The memory that a model needs, computed from its configuration.

use crate::config::{Config, specs};

/// The chunk size of prefill in tokens.
const PIECE: usize = 512;
/// The number of entries that share a scale and a bias.
const GROUP: usize = 64;

impl Config {
    /// The size of the weights in bytes: matrices with `bits` bits per entry in groups of 64 (affine),
    /// or dense for `None`; the rest, and scales and biases, in floats of `float_bytes` bytes.
    pub fn weight_bytes(&self, bits: Option<usize>, float_bytes: usize) -> u64 {
        let bytes = specs(self).into_iter().map(|spec| match bits.filter(|_| spec.is_matrix()) {
            Some(bits) => spec.len() * bits / 8 + 2 * float_bytes * spec.len() / GROUP,
            None => spec.len() * float_bytes,
        });
        bytes.map(|bytes| bytes as u64).sum()
    }

    /// The approximate memory in bytes that running one sequence takes on a CPU beside the weights, at
    /// most, which is during prefill of 512 tokens or more: the state before and after, the float32
    /// activations of one block for a chunk, and the logits of its last token. Matrix multiplications
    /// read quantized weights as stored, without dequantizing them.
    pub fn working_bytes(&self) -> u64 {
        let width = self.dims().in_proj_dim() + 3 * self.mlp.intermediate_size + 6 * self.d_model;
        let activations = 4 * (PIECE * width + self.padded_vocab());
        (2 * self.state_bytes(4) + activations) as u64
    }
}
