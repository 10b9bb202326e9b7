//! The parts that launches have in common: a mixer's call, its arrays, limits and errors.

use mlx_rs::Dtype;

use crate::mlx::launch::{Argument, Output};
use crate::{Activation, Dims, Quantized, Scheme};

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

impl MatmulCall {
    /// Returns the call that multiplies `m` rows of `columns` by a matrix, whose arrays fit each other.
    pub(crate) fn of(
        m: usize,
        columns: usize,
        dtype: Dtype,
        matrix: &Quantized,
    ) -> Result<Self, LaunchError> {
        let Quantized { weight, scales, biases, scheme } = matrix;
        let shape = weight.shape();
        let groups = [shape.first().copied().unwrap_or(0), (columns / scheme.group_size) as i32];
        let packed = scheme.packed_columns(columns).ok();
        let fits = shape.len() == 2
            && weight.dtype() == Dtype::Uint32
            && packed == shape.last().map(|&packed| packed as usize)
            && scales.shape() == groups
            && biases
                .as_ref()
                .is_none_or(|biases| biases.shape() == groups && biases.dtype() == scales.dtype());
        if !fits {
            return Err(LaunchError::Unsupported("the arrays do not fit each other".to_owned()));
        }
        let (rows, scheme) = (groups[0] as usize, *scheme);
        Ok(Self { m, rows, columns, dtype, scales: scales.dtype(), scheme })
    }
}

/// The operations beside a product in a step of decoding that its launch computes too.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Fusion {
    /// None.
    None,
    /// The norm of x before it, with a weight (in,).
    Norm {
        /// The norm's epsilon.
        epsilon: f32,
    },
    /// The norm of x before it, and `silu(gate) * up` after it: the matrix is both (2 hidden, in).
    NormSwiglu {
        /// The norm's epsilon.
        epsilon: f32,
    },
    /// The residual connection after it: the sum with (m, out), rounded once.
    Residual,
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
