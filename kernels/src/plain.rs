//! The operations in plain MLX operations: the twin of every kernel.

use mlx_rs::error::{Exception, Result};
use mlx_rs::fast::rms_norm;
use mlx_rs::ops::{concatenate, expand_dims, logaddexp, sigmoid, split_at_indices, squeeze_axes};
use mlx_rs::{Array, Dtype};

use crate::mixer::{Mixed, MixerInput, MixerState, MixerWeights};
use crate::{Activation, Dims, QuantizationError, Weight, ssd};

/// `x (.., in) -> x W^T (.., out)`.
pub(crate) fn matmul(x: &Array, weight: &Weight) -> std::result::Result<Array, QuantizationError> {
    match weight {
        Weight::Dense(weight) => Ok(x.matmul(weight.t())?),
        Weight::Quantized(weight) => weight.matmul(x),
    }
}

/// See [`Backend::mixer`](crate::Backend::mixer); shapes have been checked.
pub(crate) fn mixer(
    input: &MixerInput<'_>,
    state: &MixerState,
    weights: &MixerWeights,
    dims: Dims,
    activation: Activation,
) -> Result<Mixed> {
    let MixerInput { rows, A_log, lengths } = *input;
    let Dims { h, g, p, n, .. } = dims;
    let (d_inner, conv_dim) = (dims.d_inner() as i32, dims.conv_dim() as i32);
    let (b, l, dtype) = (rows.dim(0), rows.dim(1), rows.dtype());
    let (h, g, p, n) = (h as i32, g as i32, p as i32, n as i32);

    let [xBC, z, A_log] = match A_log {
        None => split(rows, [conv_dim, conv_dim + d_inner])?,
        Some(A_log) => {
            let [xBC, z] = split(rows, [conv_dim])?;
            [xBC, z, A_log.clone()]
        }
    };

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
) -> Result<(Array, Array)> {
    let (l, k, dtype) = (xBC.dim(1), dims.k as i32, xBC.dtype());
    let inputs = concatenate(&[&conv.as_dtype(dtype)?, xBC], 1)?; // (b, k-1+l, conv_dim)
    let taps = weights.conv_weight.as_dtype(dtype)?.t(); // (k, conv_dim)
    let taps = taps.split_equal(k, 0)?; // k of (1, conv_dim)
    let window = |from: i32, len: i32| -> Result<Array> {
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

/// `silu(gate) * up` of (.., 2m), gate first -> (.., m).
pub(crate) fn swiglu(gate_up: &Array) -> Result<Array> {
    let [gate, up] = split(gate_up, [gate_up.dim(-1) / 2])?;
    silu(&gate)?.multiply(&up)
}

/// `x + y`, and its root mean square norm times `weight`.
pub(crate) fn add_rms_norm(
    x: &Array,
    y: &Array,
    weight: &Array,
    epsilon: f32,
) -> Result<(Array, Array)> {
    let sum = x.add(y)?;
    let normed = rms_norm(&sum, Some(weight), epsilon)?;
    Ok((sum, normed))
}

/// `x * sigmoid(x)`, without `mx.compile`: on a CPU that calls a C++ compiler at run time.
fn silu(x: &Array) -> Result<Array> {
    x.multiply(sigmoid(x)?)
}

/// Cuts the last axis at the places `at` into `PARTS` pieces.
fn split<const CUTS: usize, const PARTS: usize>(
    array: &Array,
    at: [i32; CUTS],
) -> Result<[Array; PARTS]> {
    split_at_indices(array, &at, -1)?
        .try_into()
        .map_err(|_| Exception::custom(format!("split did not give {PARTS} parts")))
}
