//! Distances between arrays.

use mlx_rs::Array;
use mlx_rs::error::Result;
use mlx_rs::ops::{maximum, mean, sqrt, sum_axes};

/// Returns the mean of the Euclidean norms of `a - b` over the axes `axes`; 0 has the gradient 0.
pub(super) fn mean_norm(a: &Array, b: &Array, axes: &[i32]) -> Result<Array> {
    let squares = sum_axes(a.subtract(b)?.square()?, axes, None)?;
    // The root's slope at 0 is infinite.
    let squares = maximum(squares, Array::from_f32(f32::MIN_POSITIVE))?;
    mean(sqrt(squares)?, None)
}
