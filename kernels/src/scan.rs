//! Running sums and maxima over the last axis, laid out so that MLX computes them safely on GPUs.
//!
//! If the scanned axis is strided in memory, MLX 0.32.2 launches more blocks of its GPU kernel than
//! there are rows for many shapes, and the extra blocks write past the output, into other arrays
//! (ml-explore/mlx issue 4419; Metal and CUDA share the code that sizes the grid). Rows that are
//! contiguous take another kernel. Every scan of this workspace therefore goes through here, and so
//! does the scan that MLX's gradient of a sum runs over a cotangent of any layout.

// The only place that may call them.
#![allow(clippy::disallowed_methods)]

use mlx_rs::Array;
use mlx_rs::error::{Exception, Result};
use mlx_rs::ops;

use crate::mlx::with_gradient;

/// The inclusive running sum along the last axis, in any dtype. Has a gradient.
///
/// # Errors
/// An exception of MLX for a scalar.
pub fn cumsum(x: &Array) -> Result<Array> {
    let forward = |x: &[Array]| sum(&x[0], false).map(|sum| vec![sum]);
    let backward =
        |_: &[Array], d_sum: &[Array], _: &[Array]| sum(&d_sum[0], true).map(|d_x| vec![d_x]);
    let mut sums = with_gradient(forward, backward, std::slice::from_ref(x))?;
    sums.pop().ok_or_else(|| Exception::custom("a cumulative sum gave nothing"))
}

/// The inclusive sum from each element to the end of the last axis, in any dtype. Has no gradient.
pub(crate) fn cumsum_from(x: &Array) -> Result<Array> {
    sum(x, true)
}

/// The inclusive running maximum along the last axis, in any dtype. Has no gradient.
///
/// # Errors
/// An exception of MLX for a scalar.
pub fn cummax(x: &Array) -> Result<Array> {
    if one_each(x) { Ok(x.clone()) } else { ops::cummax(x.contiguous()?, -1, None, None) }
}

fn sum(x: &Array, reverse: bool) -> Result<Array> {
    if one_each(x) { Ok(x.clone()) } else { ops::cumsum(x.contiguous()?, -1, reverse, None) }
}

/// Returns true for rows of one element: their stride may be anything although they are contiguous.
fn one_each(x: &Array) -> bool {
    x.shape().last() == Some(&1)
}
