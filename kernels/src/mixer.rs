//! Inputs, state and outputs of a mixer between its two projections.

use mlx_rs::ops::{split_at_indices, zeros_dtype};
use mlx_rs::{Array, Dtype};

use crate::dims::expect;
use crate::{Activation, Dims, ShapeError};

/// The outputs of the first projection.
///
/// | field | shape | dtype |
/// |---|---|---|
/// | rows | (b, l, in_proj_dim): `xBC`, `z`, `A_log` side by side, or more, which is padding; in_proj_dim - h without `A_log` | float |
/// | A_log | (b, l, h), where it is not part of `rows` | float |
/// | lengths | (b,): tokens of each row; the rest is padding | int32 |
/// | starts | (b, l): true where a document starts, which does not depend on earlier tokens | bool |
#[derive(Debug, Clone, Copy)]
pub struct MixerInput<'a> {
    /// Rows of the projection.
    pub rows: &'a Array,
    /// Decays, if a matrix of their own computes them.
    pub A_log: Option<&'a Array>,
    /// For batches of rows with different lengths.
    pub lengths: Option<&'a Array>,
    /// For rows of several documents. Kernels leave these calls to plain operations.
    pub starts: Option<&'a Array>,
}

impl<'a> MixerInput<'a> {
    /// Returns an input whose rows hold everything and have the same length.
    pub fn new(rows: &'a Array) -> Self {
        Self { rows, A_log: None, lengths: None, starts: None }
    }
}

/// Weights of a mixer between its projections.
///
/// | field | shape | dtype |
/// |---|---|---|
/// | conv_weight | (conv_dim, k); the last tap multiplies the current token | float |
/// | conv_bias | (conv_dim,) | float |
/// | z_bias | (d_inner,) | float |
/// | D | (h,) | float |
#[derive(Debug, Clone)]
pub struct MixerWeights {
    /// Taps of the depthwise convolution.
    pub conv_weight: Array,
    /// Bias of the convolution, if the model has one.
    pub conv_bias: Option<Array>,
    /// Bias of the gate, if the model has one.
    pub z_bias: Option<Array>,
    /// Skip connection.
    pub D: Array,
}

/// The state of a mixer for a batch of sequences. Its size does not depend on their length.
///
/// | field | shape | dtype |
/// |---|---|---|
/// | conv | (b, k-1, conv_dim), oldest first | the activations' |
/// | ssm | (b, h, p, n) | float32 |
#[derive(Debug, Clone)]
pub struct MixerState {
    /// The last `k-1` inputs of the convolution.
    pub conv: Array,
    /// `H`, the recurrent state.
    pub ssm: Array,
}

impl MixerState {
    /// Returns the state before the first token.
    ///
    /// # Errors
    /// MLX's report of an impossible shape.
    pub fn zeros(b: usize, dims: Dims, dtype: Dtype) -> mlx_rs::error::Result<Self> {
        let Dims { h, p, n, k, .. } = dims;
        let shape = |sizes: &[usize]| sizes.iter().map(|&s| s as i32).collect::<Vec<_>>();
        Ok(Self {
            conv: zeros_dtype(&shape(&[b, k - 1, dims.conv_dim()]), dtype)?,
            ssm: zeros_dtype(&shape(&[b, h, p, n]), Dtype::Float32)?,
        })
    }
}

impl MixerInput<'_> {
    /// Returns the rows without padding.
    pub(crate) fn trimmed(&self, dims: Dims) -> mlx_rs::error::Result<Array> {
        let width = (dims.in_proj_dim() - if self.A_log.is_some() { dims.h } else { 0 }) as i32;
        if self.rows.dim(2) == width {
            return Ok(self.rows.clone());
        }
        Ok(split_at_indices(self.rows, &[width], -1)?.swap_remove(0)) // (b, l, width)
    }
}

/// The arguments of one call of a mixer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct MixerArgs<'a> {
    pub(crate) input: &'a MixerInput<'a>,
    pub(crate) state: &'a MixerState,
    pub(crate) weights: &'a MixerWeights,
    pub(crate) dims: Dims,
    pub(crate) activation: Activation,
}

/// The outputs of a mixer.
#[derive(Debug, Clone)]
pub struct Mixed {
    /// `y * silu(z + z_bias)` (b, l, d_inner), in the activations' dtype.
    pub y: Array,
    /// The state after the last token of each row.
    pub state: MixerState,
}

/// The reasons why an operation cannot be built.
#[derive(Debug, thiserror::Error)]
pub enum MixerError {
    /// An array has a wrong shape.
    #[error(transparent)]
    Shape(#[from] ShapeError),
    /// MLX refused an operation.
    #[error(transparent)]
    Mlx(#[from] mlx_rs::error::Exception),
}

/// Checks the shapes of a mixer's arrays. Back ends trust them.
pub(crate) fn check(
    input: &MixerInput<'_>,
    state: Option<&MixerState>,
    weights: &MixerWeights,
    dims: Dims,
) -> Result<(), ShapeError> {
    let Dims { h, g, p, n, k } = dims;
    if [h, g, p, n, k].contains(&0) || h % g != 0 {
        let found = [h, g, p, n, k].map(|size| size as i32).to_vec();
        let expected = "sizes above 0, h a multiple of g".to_owned();
        return Err(ShapeError { array: "dims (h, g, p, n, k)", found, expected });
    }
    let width = dims.in_proj_dim() - if input.A_log.is_some() { h } else { 0 };
    let (b, l) = match *input.rows.shape() {
        [b, l, _] if b > 0 && l > 0 => (b as usize, l as usize),
        ref found => {
            let expected = format!("(b, l, {width}) with b, l > 0");
            return Err(ShapeError { array: "rows", found: found.to_vec(), expected });
        }
    };
    if input.A_log.is_some() || (input.rows.dim(2) as usize) < width {
        expect("rows", input.rows, &[b, l, width])?;
    }
    if let Some(A_log) = input.A_log {
        expect("A_log", A_log, &[b, l, h])?;
    }
    if let Some(starts) = input.starts {
        expect("starts", starts, &[b, l])?;
    }
    if let Some(state) = state {
        expect("state.conv", &state.conv, &[b, k - 1, dims.conv_dim()])?;
        expect("state.ssm", &state.ssm, &[b, h, p, n])?;
    }
    expect("conv_weight", &weights.conv_weight, &[dims.conv_dim(), k])?;
    expect("D", &weights.D, &[h])?;
    let optional = [
        ("conv_bias", weights.conv_bias.as_ref(), dims.conv_dim()),
        ("z_bias", weights.z_bias.as_ref(), dims.d_inner()),
        ("lengths", input.lengths, b),
    ];
    for (name, array, size) in optional {
        array.map_or(Ok(()), |array| expect(name, array, &[size]))?;
    }
    Ok(())
}
