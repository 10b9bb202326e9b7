//! The parts that launches have in common: a mixer's call, its arrays, limits and errors.

use mlx_rs::Dtype;

use crate::mlx::launch::{Argument, Output};
use crate::{Activation, Dims, Scheme};

/// Threadgroup memory of one threadgroup on every Apple GPU, in bytes; every CUDA GPU has more.
pub const THREADGROUP_BYTES: usize = 32 * 1024;

/// The reasons why a kernel does not run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LaunchError {
    /// No kernel takes this case; plain MLX operations do.
    #[error("{0}")]
    Unsupported(String),
    /// MLX refused the launch.
    #[error(transparent)]
    Mlx(#[from] mlx_rs::error::Exception),
}

/// Shapes and dtypes of one call of a mixer: everything that a launch depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MixerCall {
    /// Sizes of the mixer.
    pub dims: Dims,
    /// Sequences.
    pub b: usize,
    /// Tokens.
    pub l: usize,
    /// Activations: float32, float16 or bfloat16.
    pub dtype: Dtype,
    /// `A_log` (b, l, h) is an array of its own, not part of the rows.
    pub split_A_log: bool,
    /// Sequences have their own lengths.
    pub ragged: bool,
    /// The convolution has a bias.
    pub conv_bias: bool,
    /// The gate has a bias.
    pub z_bias: bool,
    /// After the convolution.
    pub activation: Activation,
}

/// Shapes and dtypes of one product with a quantized matrix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MatmulCall {
    /// Rows of activations.
    pub m: usize,
    /// Rows of the matrix.
    pub rows: usize,
    /// Columns of both.
    pub columns: usize,
    /// Activations: float32, float16 or bfloat16.
    pub dtype: Dtype,
    /// The dtype of scales and biases.
    pub scales: Dtype,
    /// Quantization of the matrix.
    pub scheme: Scheme,
}

/// Inputs of both mixer kernels, in order. Where a call lacks one, `D` takes its place and the
/// kernels do not read it.
///
/// | name | shape | dtype |
/// |---|---|---|
/// | rows | (b, l, in_proj_dim), without `A_log` if that is split off | the activations' |
/// | A_log | (b, l, h) | float |
/// | lengths | (b,) | integer |
/// | conv | (b, k-1, conv_dim) | the activations' |
/// | ssm | (b, h, p, n) | float32 |
/// | conv_weight, conv_bias, z_bias, D | as in [`MixerWeights`](crate::MixerWeights) | float |
pub const MIXER_INPUTS: &[&str] =
    &["rows", "A_log", "lengths", "conv", "ssm", "conv_weight", "conv_bias", "z_bias", "D"];

/// Outputs of both mixer kernels, in order: y (b, l, d_inner) and the two states. For k = 1, whose
/// convolution has no state, `conv_out` is one element without meaning.
pub const MIXER_OUTPUTS: &[&str] = &["y", "conv_out", "ssm_out"];

/// Returns the bytes of one activation, if the kernels take such activations.
pub(crate) fn float_bytes(dtype: Dtype) -> Result<usize, LaunchError> {
    match dtype {
        Dtype::Float32 => Ok(4),
        Dtype::Float16 | Dtype::Bfloat16 => Ok(2),
        other => Err(LaunchError::Unsupported(format!(
            "the GPU kernels take float32, float16 and bfloat16, not {other:?}"
        ))),
    }
}

/// Sizes as template arguments.
pub(crate) fn sizes<const N: usize>(
    of: [(&'static str, usize); N],
) -> impl Iterator<Item = (&'static str, Argument)> {
    of.into_iter().map(|(name, value)| (name, Argument::Int(value as i32)))
}

/// Returns the template arguments that both forms of the mixer have.
pub(crate) fn mixer_template(call: &MixerCall) -> Vec<(&'static str, Argument)> {
    let Dims { h, g, p, n, k } = call.dims;
    let mut template = vec![("T", Argument::Dtype(call.dtype))];
    template.extend(sizes([("h", h), ("g", g), ("p", p), ("n", n), ("k", k)]));
    let flags = [
        ("split_A_log", call.split_A_log),
        ("ragged", call.ragged),
        ("has_conv_bias", call.conv_bias),
        ("has_z_bias", call.z_bias),
        ("silu_conv", call.activation == Activation::Silu),
    ];
    template.extend(flags.map(|(name, flag)| (name, Argument::Bool(flag))));
    template
}

/// Returns the outputs of both forms: y and the two states.
pub(crate) fn mixer_outputs(call: &MixerCall) -> Vec<Output> {
    let MixerCall { dims, b, l, dtype, .. } = *call;
    let Dims { h, p, n, k, .. } = dims;
    let conv: &[usize] = if k == 1 { &[1] } else { &[b, k - 1, dims.conv_dim()] };
    vec![
        Output::new(&[b, l, dims.d_inner()], dtype),
        Output::new(conv, dtype),
        Output::new(&[b, h, p, n], Dtype::Float32),
    ]
}
