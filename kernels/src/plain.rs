//! Operations in plain MLX operations: the mixer, and those that take a few calls.

use mlx_rs::error::{Exception, Result};
use mlx_rs::fast::rms_norm;
use mlx_rs::ops::{
    broadcast_to, expand_dims, eye, logaddexp, maximum, select, sigmoid, split_at_indices,
    squeeze_axes, sum_axis, swap_axes,
};
use mlx_rs::{Array, Dtype};

use crate::convolution::convolution;
use crate::elementwise::{Functions, silu};
use crate::mixer::{Mixed, MixerArgs, MixerInput, MixerState};
use crate::{Activation, QuantizationError, Weight, ssd};

/// `x (.., in) -> x W^T (.., out)`.
pub(crate) fn matmul(x: &Array, weight: &Weight) -> std::result::Result<Array, QuantizationError> {
    match weight {
        Weight::Dense(weight) => Ok(x.matmul(weight.t())?),
        Weight::Quantized(weight) => weight.matmul(x),
        Weight::Packed(weight) => weight.unpacked()?.matmul(x),
    }
}

/// The inputs of the recurrence, in float32 except for the gate.
struct Projected {
    /// (b, l, h, p)
    x: Array,
    /// (b, l, g, n)
    B: Array,
    /// (b, l, g, n)
    C: Array,
    /// (b, l, h)
    A_log: Array,
    /// (b, l, d_inner), in the activations' dtype.
    z: Array,
    /// The inputs of the convolution to keep, (b, k-1, conv_dim)
    conv: Array,
    /// (b, l), false in padding.
    starts: Option<Array>,
}

impl Projected {
    /// Splits and convolves the rows, continuing `conv` (b, k-1, conv_dim).
    fn new(args: MixerArgs<'_>) -> Result<Self> {
        let MixerArgs { input, state: MixerState { conv, .. }, weights, dims, activation } = args;
        let MixerInput { rows, A_log, lengths, starts } = *input;
        let (d_inner, conv_dim) = (dims.d_inner() as i32, dims.conv_dim() as i32);
        let (b, l) = (rows.dim(0), rows.dim(1));
        let [h, g, p, n] = [dims.h, dims.g, dims.p, dims.n].map(|size| size as i32);
        let [xBC, z, A_log] = match A_log {
            None => split(rows, [conv_dim, conv_dim + d_inner])?,
            Some(A_log) => {
                let [xBC, z] = split(rows, [conv_dim])?;
                [xBC, z, A_log.clone()]
            }
        };
        let starts = match (starts, lengths) {
            (Some(starts), Some(lengths)) => {
                Some(starts.as_dtype(Dtype::Bool)?.logical_and(ssd::real(l, lengths)?)?)
            }
            (Some(starts), None) => Some(starts.as_dtype(Dtype::Bool)?),
            (None, _) => None,
        };
        let (xBC, conv) = convolution(&xBC, lengths, starts.as_ref(), conv, weights, dims)?;
        let xBC = match activation {
            Activation::Identity => xBC,
            Activation::Silu => silu(&xBC)?,
        };
        let [x, B, C] = split(&xBC.as_dtype(Dtype::Float32)?, [d_inner, d_inner + g * n])?;
        Ok(Self {
            x: x.reshape(&[b, l, h, p])?,
            B: B.reshape(&[b, l, g, n])?,
            C: C.reshape(&[b, l, g, n])?,
            A_log: A_log.as_dtype(Dtype::Float32)?,
            z,
            conv,
            starts,
        })
    }

    /// Returns the logarithms of the decays, -softplus(A_log) (b, l, h).
    fn log_a(&self) -> Result<Array> {
        logaddexp(&self.A_log, Array::from_f32(0.0))?.negative()
    }
}

/// Implements [`Backend::mixer`](crate::Backend::mixer); shapes have been checked.
pub(crate) fn mixer(args: MixerArgs<'_>, functions: Functions) -> Result<Mixed> {
    let projected = Projected::new(args)?;
    let MixerArgs { input, state, weights, dims, .. } = args;
    let Projected { x, B, C, A_log, z, starts, .. } = &projected;
    let (b, l, dtype) = (x.dim(0), x.dim(1), input.rows.dtype());
    let [h, p, d_inner] = [dims.h, dims.p, dims.d_inner()].map(|size| size as i32);

    let (y, ssm) = if l == 1 && input.lengths.is_none() {
        let [x, B, C] = [x, B, C].map(|array| squeeze_axes(array, &[1]));
        let mut a = sigmoid(squeeze_axes(A_log, &[1])?.negative()?)?; // (b, h)
        if let Some(starts) = starts {
            a = select(starts, Array::from_f32(0.0), &a)?;
        }
        let (y, ssm) = ssd::step(&x?, &a, &B?, &C?, &state.ssm, dims)?;
        (expand_dims(&y, 1)?, ssm) // (b, 1, h, p)
    } else {
        let log_a = projected.log_a()?; // (b, l, h)
        let (x, log_a) = match input.lengths {
            Some(lengths) => ssd::mask_padding(x, &log_a, lengths)?,
            None => (x.clone(), log_a),
        };
        ssd::chunked(&x, &log_a, [B, C], &state.ssm, starts.as_ref(), dims, functions)?
    };

    let D = weights.D.as_dtype(Dtype::Float32)?.reshape(&[h, 1])?; // (h, 1)
    let D = of_sequences(&broadcast_to(&D, &[h, p])?, b)?; // (b, 1, d_inner)
    let x = x.reshape(&[b, l, d_inner])?;
    let y = y.reshape(&[b, l, d_inner])?.add(x.multiply(&D)?)?.as_dtype(dtype)?; // (b, l, d_inner)
    let z = match &weights.z_bias {
        Some(z_bias) => z.add(of_sequences(&z_bias.as_dtype(dtype)?, b)?)?,
        None => z.clone(),
    };
    let state = MixerState { conv: projected.conv, ssm };
    Ok(Mixed { y: (functions.gate)(&z, &y)?, state })
}

/// Repeats the elements of `weight` for each of `b` sequences, (b, 1, elements).
///
/// The gradient is then a sum over tokens and one over sequences. MLX computes one sum over both, or
/// over all but an axis of few elements, in so few blocks that it takes a GPU up to twenty times as long.
pub(crate) fn of_sequences(weight: &Array, b: i32) -> Result<Array> {
    let row = weight.reshape(&[1, 1, -1])?;
    broadcast_to(&row, &[b, 1, row.dim(2)])
}

/// Implements [`Backend::mixing_matrix`](crate::Backend::mixing_matrix); shapes have been checked.
pub(crate) fn mixing_matrix(args: MixerArgs<'_>, functions: Functions) -> Result<Array> {
    let projected = Projected::new(args)?;
    let MixerArgs { weights, dims, .. } = args;
    let (b, l) = (projected.x.dim(0), projected.x.dim(1));
    let [h, g, r] = [dims.h, dims.g, dims.h / dims.g].map(|size| size as i32);
    let heads_first = |array: &Array| array.transpose_axes(&[0, 2, 1, 3]);
    let B = heads_first(&projected.B)?; // (b, g, s, n)
    let C = heads_first(&projected.C)?; // (b, g, t, n)
    let scores = B.matmul(swap_axes(&C, -1, -2)?)?; // (b, g, s, t)
    let scores = expand_dims(&scores, 2)?; // (b, g, 1, s, t)
    let log_a = swap_axes(&projected.log_a()?, 1, 2)?; // (b, h, t)
    let documents = match &projected.starts {
        Some(starts) => Some(expand_dims(ssd::documents(starts)?, 1)?), // (b, 1, t)
        None => None,
    };
    let L = ssd::decays(&log_a, documents.as_ref(), functions)?; // (b, h, s, t)
    let T = L.reshape(&[b, g, r, l, l])?.multiply(&scores)?; // (b, g, r, s, t)
    let D = weights.D.as_dtype(Dtype::Float32)?.reshape(&[h, 1, 1])?; // (h, 1, 1)
    let diagonal = eye::<f32>(l, None, None)?.multiply(&D)?; // (h, s, t)
    swap_axes(T.reshape(&[b, h, l, l])?.add(diagonal)?, -1, -2) // (b, h, t, s)
}

/// `silu(gate) * up` of (.., 2m), gate first -> (.., m).
pub(crate) fn swiglu(gate_up: &Array) -> Result<Array> {
    let [gate, up] = split(gate_up, [gate_up.dim(-1) / 2])?;
    (Functions::MLX.gate)(&gate, &up)
}

/// `x + y`, and its root mean square norm times `weight` in the dtype `narrow`.
pub(crate) fn add_rms_norm(
    x: &Array,
    y: &Array,
    weight: &Array,
    epsilon: f32,
    narrow: Dtype,
) -> Result<(Array, Array)> {
    let sum = x.add(y)?;
    let normed = rms_norm(&sum, Some(weight), epsilon)?.as_dtype(narrow)?;
    Ok((sum, normed))
}

/// The Euclidean norms of the rows of `x + y - target` (.., d) -> (..), float32; 0 has the gradient 0.
pub(crate) fn distances(x: &Array, y: &Array, target: &Array) -> Result<Array> {
    let [x, y, target] = [x, y, target].map(|array| array.as_dtype(Dtype::Float32));
    let squares = sum_axis(target?.subtract(x?.add(y?)?)?.square()?, -1, None)?;
    // The root's slope at 0 is infinite.
    maximum(squares, Array::from_f32(f32::MIN_POSITIVE))?.sqrt()
}

/// Turns heads (b, l, heads, k) to the positions 0 to l - 1.
pub(crate) fn rope(x: &Array, turned: i32, wavelengths: &Array) -> Result<Array> {
    let x = swap_axes(x, 1, 2)?; // (b, heads, l, k)
    swap_axes(mlx_rs::fast::rope(&x, turned, false, None, 1.0, 0, wavelengths)?, 1, 2)
}

/// The softmax of `x` (.., n) over its last axis, summed in float32; 0 where `mask` is false.
pub(crate) fn softmax(x: &Array, mask: Option<&Array>) -> Result<Array> {
    mlx_rs::ops::softmax_axis(masked(x, mask)?, -1, true)
}

/// `x`, minus infinity where `mask` is false.
pub(crate) fn masked(x: &Array, mask: Option<&Array>) -> Result<Array> {
    let never = Array::from_f32(f32::NEG_INFINITY).as_dtype(x.dtype())?;
    mask.map_or(Ok(x.clone()), |mask| select(mask, x, never))
}

/// Splits the last axis at the indices `at` into `PARTS` pieces.
fn split<const CUTS: usize, const PARTS: usize>(
    array: &Array,
    at: [i32; CUTS],
) -> Result<[Array; PARTS]> {
    split_at_indices(array, &at, -1)?
        .try_into()
        .map_err(|_| Exception::custom(format!("split did not give {PARTS} parts")))
}
