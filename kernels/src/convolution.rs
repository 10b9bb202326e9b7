//! The causal depthwise convolution before the recurrence, in plain MLX operations.

use mlx_rs::error::{Exception, Result};
use mlx_rs::ops::{concatenate, expand_dims, select, split_at_indices, zeros_dtype};
use mlx_rs::{Array, Dtype};

use crate::Dims;
use crate::mixer::MixerWeights;
use crate::plain::of_sequences;
use crate::scan::cumsum;

/// Convolves `xBC` (b, l, conv_dim), continuing the inputs `conv` (b, k-1, conv_dim).
///
/// `lengths` (b,) and `starts` (b, l) as in [`MixerInput`](crate::MixerInput). To tokens after a
/// start, the inputs before it are zeros.
///
/// Returns the convolved rows (b, l, conv_dim) and the inputs to keep for the next call.
pub(crate) fn convolution(
    xBC: &Array,
    lengths: Option<&Array>,
    starts: Option<&Array>,
    conv: &Array,
    weights: &MixerWeights,
    dims: Dims,
) -> Result<(Array, Array)> {
    let (b, l, k, dtype) = (xBC.dim(0), xBC.dim(1), dims.k as i32, xBC.dtype());
    let inputs = concatenate(&[&conv.as_dtype(dtype)?, xBC], 1)?; // (b, k-1+l, conv_dim)
    let documents = starts.map(|starts| documents(starts, k)).transpose()?; // (b, k-1+l, 1)
    let zero = Array::from_f32(0.0).as_dtype(dtype)?;
    // Replaces inputs of other documents by zeros.
    let within = |inputs: Array, of: Option<Array>, document: Option<&Array>| match (of, document) {
        (Some(of), Some(document)) => select(of.eq(document)?, &inputs, &zero),
        _ => Ok(inputs),
    };
    let current = documents.as_ref().map(|all| window(all, k - 1, l)).transpose()?; // (b, l, 1)

    let taps = weights.conv_weight.as_dtype(dtype)?.t(); // (k, conv_dim)
    let taps = taps.split_equal(k, 0)?; // k of (1, conv_dim)
    let mut sum: Option<Array> = None;
    for (from, tap) in (0..k).zip(&taps) {
        let of = documents.as_ref().map(|all| window(all, from, l)).transpose()?;
        let input = within(window(&inputs, from, l)?, of, current.as_ref())?;
        let product = input.multiply(of_sequences(tap, b)?)?; // (b, l, conv_dim)
        sum = Some(match sum {
            None => product,
            Some(sum) => sum.add(product)?,
        });
    }
    let mut sum = sum.ok_or_else(|| Exception::custom("a convolution without taps"))?;
    if let Some(bias) = &weights.conv_bias {
        sum = sum.add(of_sequences(&bias.as_dtype(dtype)?, b)?)?;
    }

    let last = |array: &Array| match lengths {
        None => window(array, l, k - 1),
        Some(lengths) => {
            // Row i keeps inputs lengths[i] .. lengths[i] + k-1 of the k-1+l it has.
            let offsets = Array::from_iter(0..k - 1, &[1, k - 1]);
            let places = expand_dims(lengths, 1)?.add(&offsets)?; // (b, k-1)
            array.take_along_axis(expand_dims(&places, -1)?, 1)
        }
    };
    let mut kept = last(&inputs)?; // (b, k-1, conv_dim)
    if k > 1
        && let Some(documents) = &documents
    {
        let of = last(documents)?; // (b, k-1, 1)
        let newest = window(&of, k - 2, 1)?; // (b, 1, 1)
        kept = within(kept, Some(of), Some(&newest))?;
    }
    // A view would keep all of `inputs` alive for as long as the state lives.
    Ok((sum, kept.contiguous()?))
}

/// Returns the number of the document that each input belongs to, (b, k-1+l, 1): the kept inputs
/// belong to document 0, and each start begins another.
fn documents(starts: &Array, k: i32) -> Result<Array> {
    let starts = starts.as_dtype(Dtype::Int32)?;
    let kept = zeros_dtype(&[starts.dim(0), k - 1], Dtype::Int32)?;
    let numbers = cumsum(&concatenate(&[&kept, &starts], 1)?)?;
    expand_dims(&numbers, -1)
}

/// Returns `len` steps of axis 1 from `from` on.
fn window(array: &Array, from: i32, len: i32) -> Result<Array> {
    Ok(split_at_indices(array, &[from, from + len], 1)?.swap_remove(1))
}
