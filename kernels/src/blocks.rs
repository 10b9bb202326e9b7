//! All blocks of a model as one operation.

use mlx_rs::Array;

use crate::dims::expect;
use crate::{Activation, Dims, MixerState, MixerWeights, ShapeError, Weight};

/// `x W^T + bias`.
#[derive(Debug, Clone, Copy)]
pub struct LinearArgs<'a> {
    /// The matrix (out, in).
    pub weight: &'a Weight,
    /// The bias (out,).
    pub bias: Option<&'a Array>,
}

/// A block: `x + mixer(norm(x))`, then `x + mlp(norm(x))` with a gated MLP.
#[derive(Debug, Clone, Copy)]
pub struct BlockArgs<'a> {
    /// The norm before the mixer (d,).
    pub mixer_norm: &'a Array,
    /// The norm before the MLP (d,).
    pub mlp_norm: &'a Array,
    /// The mixer's first projection.
    pub in_proj: LinearArgs<'a>,
    /// The rows of it that yield `A_log`, where they are a matrix of their own.
    pub A_log_proj: Option<LinearArgs<'a>>,
    /// The mixer between its projections.
    pub mixer: &'a MixerWeights,
    /// Its second projection.
    pub out_proj: LinearArgs<'a>,
    /// The MLP's gate; without `up`, both side by side.
    pub gate: LinearArgs<'a>,
    /// The factor of the gate, where it is a matrix of its own.
    pub up: Option<LinearArgs<'a>>,
    /// The MLP's last matrix.
    pub down: LinearArgs<'a>,
    /// The state of the mixer.
    pub state: &'a MixerState,
}

/// The arguments of [`Backend::blocks`](crate::Backend::blocks).
#[derive(Debug, Clone)]
pub struct BlocksArgs<'a> {
    /// The embeddings (b, l, d).
    pub x: &'a Array,
    /// The tokens of each row that count (b,), if they differ.
    pub lengths: Option<&'a Array>,
    /// The blocks, in order.
    pub blocks: Vec<BlockArgs<'a>>,
    /// The norm after the last block (d,), and its epsilon.
    pub final_norm: (&'a Array, f32),
    /// The epsilon of the other norms.
    pub epsilon: f32,
    /// The sizes of the mixers.
    pub dims: Dims,
    /// The activation after the convolutions.
    pub activation: Activation,
}

impl BlocksArgs<'_> {
    /// Checks the shapes of x, lengths and states; those of weights are the caller's.
    pub(crate) fn check(&self) -> Result<(), ShapeError> {
        let b = match *self.x.shape() {
            [b, l, d] if b > 0 && l > 0 && d > 0 => b as usize,
            ref found => {
                let (found, expected) = (found.to_vec(), "(b, l, d), all above 0".to_owned());
                return Err(ShapeError { array: "x", found, expected });
            }
        };
        if let Some(lengths) = self.lengths {
            expect("lengths", lengths, &[b])?;
        }
        let Dims { h, p, n, k, .. } = self.dims;
        for BlockArgs { state, .. } in &self.blocks {
            expect("state.conv", &state.conv, &[b, k - 1, self.dims.conv_dim()])?;
            expect("state.ssm", &state.ssm, &[b, h, p, n])?;
        }
        Ok(())
    }
}
