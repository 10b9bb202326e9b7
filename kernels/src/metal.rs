//! The operations as Metal kernels, as custom kernels of MLX's graph.
//!
//! A [`Launch`] describes everything that MLX is given: the source, its template arguments, the
//! grid and the outputs. Pure functions make it from shapes and dtypes, so that the emulator tests
//! run exactly what a Mac runs. The sources are in `kernels/metal`; its README has the
//! arithmetic behind the sizes chosen here.

mod elementwise;
mod ffi;
mod launch;
mod scan;
mod step;

pub(crate) use ffi::available;

pub use elementwise::{add_rms_norm_launch, swiglu_launch};
pub use launch::{Argument, Launch, Output, Source, THREADGROUP_BYTES};
pub use scan::mixer_scan;
pub use step::{MAX_STEPS, mixer_step};

use mlx_rs::{Array, Dtype};

use crate::{Activation, Dims, Mixed, MixerInput, MixerState, MixerWeights};

/// Why a kernel does not run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MetalError {
    /// No kernel takes this case: plain MLX operations must.
    #[error("{0}")]
    Unsupported(String),
    /// MLX refused the launch.
    #[error(transparent)]
    Mlx(#[from] mlx_rs::error::Exception),
}

/// Shapes and dtypes of one call of a mixer, all that a launch depends on.
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

/// Inputs of both mixer kernels, in order. Those that a call lacks are stood in for by `D`, which
/// the kernels then do not read.
///
/// | name | shape | dtype |
/// |---|---|---|
/// | rows | (b, l, in_proj_dim), without `A_log` if that is split off | the activations' |
/// | A_log | (b, l, h) | float |
/// | lengths | (b,) | integer |
/// | conv | (b, k-1, conv_dim) | the activations' |
/// | ssm | (b, h, p, n) | float32 |
/// | conv_weight, conv_bias, z_bias, D | as in [`MixerWeights`] | float |
pub const MIXER_INPUTS: &[&str] =
    &["rows", "A_log", "lengths", "conv", "ssm", "conv_weight", "conv_bias", "z_bias", "D"];

/// Outputs of both mixer kernels, in order: y (b, l, d_inner) and the two states. For k = 1, whose
/// convolution has no state, `conv_out` is one element without meaning.
pub const MIXER_OUTPUTS: &[&str] = &["y", "conv_out", "ssm_out"];

/// The launch that computes a mixer: steps for up to [`MAX_STEPS`] tokens, with bits that do not
/// depend on how tokens are cut into calls; chunks beyond, or steps where sizes do not suit them.
///
/// # Errors
/// [`MetalError::Unsupported`] if neither takes the case.
pub fn mixer_launch(call: &MixerCall) -> Result<Launch, MetalError> {
    if call.l <= MAX_STEPS {
        return mixer_step(call);
    }
    mixer_scan(call).or_else(|_| mixer_step(call))
}

/// Whether a kernel takes a mixer of these sizes, and if not, why.
///
/// # Errors
/// The reason, for people.
pub fn supports(dims: Dims, l: usize, dtype: Dtype) -> Result<(), String> {
    let call = MixerCall {
        dims,
        b: 1,
        l,
        dtype,
        split_A_log: false,
        ragged: false,
        conv_bias: true,
        z_bias: true,
        activation: Activation::Identity,
    };
    mixer_launch(&call).map(drop).map_err(|error| error.to_string())
}

/// [`Backend::mixer`](crate::Backend::mixer) in one dispatch. Shapes must have been checked.
pub(crate) fn mixer(
    input: &MixerInput<'_>,
    state: &MixerState,
    weights: &MixerWeights,
    dims: Dims,
    activation: Activation,
) -> Result<Mixed, MetalError> {
    let MixerInput { rows, A_log, lengths, starts } = *input;
    if starts.is_some() {
        return Err(MetalError::Unsupported("the Metal kernels take no document starts".into()));
    }
    let dtype = rows.dtype();
    let launch = mixer_launch(&MixerCall {
        dims,
        b: rows.dim(0) as usize,
        l: rows.dim(1) as usize,
        dtype,
        split_A_log: A_log.is_some(),
        ragged: lengths.is_some(),
        conv_bias: weights.conv_bias.is_some(),
        z_bias: weights.z_bias.is_some(),
        activation,
    })?;
    let D = &weights.D;
    let converted;
    let conv = match dims.k {
        1 => D,
        _ if state.conv.dtype() == dtype => &state.conv,
        _ => {
            converted = state.conv.as_dtype(dtype)?;
            &converted
        }
    };
    let inputs = [
        rows,
        A_log.unwrap_or(D),
        lengths.unwrap_or(D),
        conv,
        &state.ssm,
        &weights.conv_weight,
        weights.conv_bias.as_ref().unwrap_or(D),
        weights.z_bias.as_ref().unwrap_or(D),
        D,
    ];
    let [y, conv, ssm] = launch.run(&inputs)?;
    let conv = if dims.k == 1 { state.conv.clone() } else { conv };
    Ok(Mixed { y, state: MixerState { conv, ssm } })
}

/// [`Backend::swiglu`](crate::Backend::swiglu) in one dispatch.
pub(crate) fn swiglu(gate_up: &Array) -> Result<Array, MetalError> {
    let launch = swiglu_launch(gate_up.shape(), gate_up.dtype())?;
    let [out] = launch.run(&[gate_up])?;
    Ok(out)
}

/// [`Backend::add_rms_norm`](crate::Backend::add_rms_norm) in one dispatch.
pub(crate) fn add_rms_norm(
    x: &Array,
    y: &Array,
    weight: &Array,
    epsilon: f32,
) -> Result<(Array, Array), MetalError> {
    if x.shape() != y.shape() || x.dtype() != y.dtype() {
        let [x, y] = [x, y].map(|a| format!("{:?} {:?}", a.dtype(), a.shape()));
        return Err(MetalError::Unsupported(format!("the summands differ: {x} and {y}")));
    }
    if x.shape().last() != weight.shape().first() || weight.ndim() != 1 {
        let [x, w] = [x, weight].map(|a| format!("{:?}", a.shape()));
        return Err(MetalError::Unsupported(format!("a weight {w} does not fit rows {x}")));
    }
    let launch = add_rms_norm_launch(x.shape(), x.dtype(), epsilon)?;
    let [sum, normed] = launch.run(&[x, y, weight])?;
    Ok((sum, normed))
}

/// Activations that the kernels are written for, with their bytes.
fn float_bytes(dtype: Dtype) -> Result<usize, MetalError> {
    match dtype {
        Dtype::Float32 => Ok(4),
        Dtype::Float16 | Dtype::Bfloat16 => Ok(2),
        other => Err(MetalError::Unsupported(format!(
            "the Metal kernels take float32, float16 and bfloat16, not {other:?}"
        ))),
    }
}
