//! Everything between a mixer's two projections.
//!
//! Source: Llamba (arXiv 2502.14458), section 3, and the model definition published with it.

use mlx_rs::ops::{
    concatenate, expand_dims, logaddexp, sigmoid, split_at_indices, squeeze_axes, zeros_dtype,
};
use mlx_rs::{Array, Dtype};

use crate::dims::expect;
use crate::{Activation, Dims, ShapeError, ssd};

/// Weights of a mixer between its projections.
///
/// | field | shape | dtype |
/// |---|---|---|
/// | conv_weight | (conv_dim, k); the last tap meets the current token | float |
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

/// What a mixer remembers of a batch of sequences; constant in their length.
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
    /// The state before the first token.
    ///
    /// # Errors
    /// What MLX reports of an impossible shape.
    pub fn zeros(b: usize, dims: Dims, dtype: Dtype) -> mlx_rs::error::Result<Self> {
        let Dims { h, p, n, k, .. } = dims;
        let shape = |sizes: &[usize]| sizes.iter().map(|&s| s as i32).collect::<Vec<_>>();
        Ok(Self {
            conv: zeros_dtype(&shape(&[b, k - 1, dims.conv_dim()]), dtype)?,
            ssm: zeros_dtype(&shape(&[b, h, p, n]), Dtype::Float32)?,
        })
    }
}

/// Result of [`mixer`].
#[derive(Debug, Clone)]
pub struct Mixed {
    /// `y * silu(z + z_bias)` (b, l, d_inner), in the activations' dtype.
    pub y: Array,
    /// The state after the last token of each row.
    pub state: MixerState,
}

/// Why a mixer cannot be built.
#[derive(Debug, thiserror::Error)]
pub enum MixerError {
    /// An array does not fit.
    #[error(transparent)]
    Shape(#[from] ShapeError),
    /// MLX refused an operation.
    #[error(transparent)]
    Mlx(#[from] mlx_rs::error::Exception),
}

/// Convolution, recurrence, skip and gate, for any length, continuing `state`.
///
/// | arg | shape | dtype |
/// |---|---|---|
/// | rows | (b, l, in_proj_dim): `xBC`, `z`, `A_log` side by side | float |
/// | lengths | (b,) tokens of each row that count; the rest is padding | int32 |
///
/// The recurrence runs in float32 whatever the activations are:
/// `a_t = sigmoid(-A_log_t)`, `H_t = a_t H_{t-1} + x_t (outer) B_t`, `y_t = H_t C_t + D x_t`.
/// Outputs at padded positions are unspecified. Lazy: evaluates nothing.
///
/// # Errors
/// [`MixerError::Shape`] names the first array that does not fit.
pub fn mixer(
    rows: &Array,
    lengths: Option<&Array>,
    state: &MixerState,
    weights: &MixerWeights,
    dims: Dims,
    activation: Activation,
) -> Result<Mixed, MixerError> {
    check(rows, lengths, state, weights, dims)?;
    let Dims { h, g, p, n, .. } = dims;
    let (d_inner, conv_dim) = (dims.d_inner() as i32, dims.conv_dim() as i32);
    let (b, l, dtype) = (rows.dim(0), rows.dim(1), rows.dtype());
    let (h, g, p, n) = (h as i32, g as i32, p as i32, n as i32);

    let [xBC, z, A_log] = split(rows, [conv_dim, conv_dim + d_inner])?;

    let (xBC, conv) = convolution(&xBC, lengths, &state.conv, weights, dims)?;
    let xBC = match activation {
        Activation::Identity => xBC,
        Activation::Silu => silu(&xBC)?,
    };

    let [x, B, C] = split(&xBC.as_dtype(Dtype::Float32)?, [d_inner, d_inner + g * n])?;
    let x = x.reshape(&[b, l, h, p])?; // (b, l, h, p)
    let B = B.reshape(&[b, l, g, n])?; // (b, l, g, n)
    let C = C.reshape(&[b, l, g, n])?; // (b, l, g, n)
    let A_log = A_log.as_dtype(Dtype::Float32)?; // (b, l, h)

    let (y, ssm) = if l == 1 && lengths.is_none() {
        let [x, B, C] = [&x, &B, &C].map(|array| squeeze_axes(array, &[1]));
        let a = sigmoid(squeeze_axes(&A_log, &[1])?.negative()?)?; // (b, h)
        let (y, ssm) = ssd::step(&x?, &a, &B?, &C?, &state.ssm, dims)?;
        (expand_dims(&y, 1)?, ssm) // (b, 1, h, p)
    } else {
        let log_a = logaddexp(&A_log, Array::from_f32(0.0))?.negative()?; // -softplus
        let (x, log_a) = match lengths {
            Some(lengths) => ssd::mask_padding(&x, &log_a, lengths)?,
            None => (x.clone(), log_a),
        };
        ssd::chunked(&x, &log_a, &B, &C, &state.ssm, dims)?
    };

    let D = weights.D.as_dtype(Dtype::Float32)?.reshape(&[h, 1])?; // (h, 1)
    let y = y.add(x.multiply(&D)?)?; // (b, l, h, p)
    let y = y.reshape(&[b, l, d_inner])?.as_dtype(dtype)?;
    let z = match &weights.z_bias {
        Some(z_bias) => z.add(z_bias.as_dtype(dtype)?)?,
        None => z,
    };
    Ok(Mixed { y: y.multiply(silu(&z)?)?, state: MixerState { conv, ssm } })
}

/// Causal depthwise convolution that continues `conv` (b, k-1, conv_dim).
///
/// Returns the convolved rows (b, l, conv_dim) and the inputs to keep.
fn convolution(
    xBC: &Array,
    lengths: Option<&Array>,
    conv: &Array,
    weights: &MixerWeights,
    dims: Dims,
) -> mlx_rs::error::Result<(Array, Array)> {
    let (l, k, dtype) = (xBC.dim(1), dims.k as i32, xBC.dtype());
    let inputs = concatenate(&[&conv.as_dtype(dtype)?, xBC], 1)?; // (b, k-1+l, conv_dim)
    let taps = weights.conv_weight.as_dtype(dtype)?.t(); // (k, conv_dim)
    let taps = taps.split_equal(k, 0)?; // k of (1, conv_dim)
    let window = |from: i32, len: i32| -> mlx_rs::error::Result<Array> {
        Ok(split_at_indices(&inputs, &[from, from + len], 1)?.swap_remove(1))
    };
    let mut sum = window(0, l)?.multiply(&taps[0])?;
    for (tap, weight) in (1..).zip(&taps[1..]) {
        sum = sum.add(window(tap, l)?.multiply(weight)?)?;
    }
    if let Some(bias) = &weights.conv_bias {
        sum = sum.add(bias.as_dtype(dtype)?)?;
    }
    let kept = match lengths {
        None => window(l, k - 1)?,
        Some(lengths) => {
            // Row i keeps inputs lengths[i] .. lengths[i] + k-1 of the k-1+l it has.
            let offsets = Array::from_iter(0..k - 1, &[1, k - 1]);
            let places = expand_dims(lengths, 1)?.add(&offsets)?; // (b, k-1)
            inputs.take_along_axis(expand_dims(&places, -1)?, 1)?
        }
    };
    // A view would keep all of `inputs` alive for as long as the state lives.
    Ok((sum, kept.contiguous()?))
}

/// `x * sigmoid(x)`, without `mx.compile`: on a CPU that calls a C++ compiler at run time.
fn silu(x: &Array) -> mlx_rs::error::Result<Array> {
    x.multiply(sigmoid(x)?)
}

/// Cuts the last axis in three.
fn split(array: &Array, at: [i32; 2]) -> mlx_rs::error::Result<[Array; 3]> {
    split_at_indices(array, &at, -1)?
        .try_into()
        .map_err(|_| mlx_rs::error::Exception::custom("split did not give three parts"))
}

/// The one place where shapes are checked; the operations below trust them.
fn check(
    rows: &Array,
    lengths: Option<&Array>,
    state: &MixerState,
    weights: &MixerWeights,
    dims: Dims,
) -> Result<(), ShapeError> {
    let Dims { h, p, n, k, .. } = dims;
    let (b, l) = match *rows.shape() {
        [b, l, _] if b > 0 && l > 0 => (b as usize, l as usize),
        ref found => {
            let expected = format!("(b, l, {}) with b, l > 0", dims.in_proj_dim());
            return Err(ShapeError { array: "rows", found: found.to_vec(), expected });
        }
    };
    expect("rows", rows, &[b, l, dims.in_proj_dim()])?;
    expect("state.conv", &state.conv, &[b, k - 1, dims.conv_dim()])?;
    expect("state.ssm", &state.ssm, &[b, h, p, n])?;
    expect("conv_weight", &weights.conv_weight, &[dims.conv_dim(), k])?;
    expect("D", &weights.D, &[h])?;
    let optional = [
        ("conv_bias", weights.conv_bias.as_ref(), dims.conv_dim()),
        ("z_bias", weights.z_bias.as_ref(), dims.d_inner()),
        ("lengths", lengths, b),
    ];
    for (name, array, size) in optional {
        array.map_or(Ok(()), |array| expect(name, array, &[size]))?;
    }
    Ok(())
}
