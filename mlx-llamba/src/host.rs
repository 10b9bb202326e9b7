//! Values of MLX arrays on the host.

use mlx_rs::error::Exception;
use mlx_rs::{Array, ArrayElement, Dtype};

use crate::error::Result;

/// Returns all values as float32, row-major. Evaluates the array.
///
/// # Errors
/// [`Error::Mlx`](crate::Error::Mlx) if the computation fails.
pub fn floats(array: &Array) -> Result<Vec<f32>> {
    values(&array.as_dtype(Dtype::Float32)?)
}

/// Returns all values as token ids, row-major. Evaluates the array.
pub(crate) fn ids(array: &Array) -> Result<Vec<u32>> {
    values(&array.as_dtype(Dtype::Uint32)?)
}

fn values<T: ArrayElement + Clone>(array: &Array) -> Result<Vec<T>> {
    if array.size() == 0 {
        return Ok(Vec::new());
    }
    // A view (a slice, a transpose) has no slice of its own on the host.
    let array = array.contiguous()?;
    array.eval()?;
    Ok(array.to_vec_exact::<T>().map_err(|e| Exception::custom(e.to_string()))?)
}
