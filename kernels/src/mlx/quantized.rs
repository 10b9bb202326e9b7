//! Quantization in every mode, and an order between operations that share no data.

use std::ffi::CStr;

use mlx_rs::error::{Exception, Result};
use mlx_rs::{Array, Stream};

use super::handles::{Arrays, Slot, many, one};

/// Group size, bits and mode as MLX takes them.
#[derive(Clone, Copy)]
pub(crate) struct RawScheme {
    pub(crate) group_size: i32,
    pub(crate) bits: i32,
    pub(crate) mode: &'static CStr,
}

fn some(value: i32) -> mlx_sys::mlx_optional_int {
    mlx_sys::mlx_optional_int { value, has_value: true }
}

/// `mlx::core::quantize`: packed weight, scales and, in affine mode, biases.
pub(crate) fn quantize(w: &Array, scheme: RawScheme) -> Result<Vec<Array>> {
    let (null, stream) = (Slot::empty(), Stream::thread_local_or_default());
    // SAFETY: all handles are alive for the call; `out` is a valid vector to write to.
    many("mlx_quantize", |out| unsafe {
        mlx_sys::mlx_quantize(
            out,
            w.as_ptr(),
            some(scheme.group_size),
            some(scheme.bits),
            scheme.mode.as_ptr(),
            null.0,
            stream.as_ptr(),
        )
    })
}

/// `array` itself, but only once `earlier` has been computed (`mlx::core::depends`).
pub(crate) fn after(array: &Array, earlier: &Array) -> Result<Array> {
    let (arrays, earlier) = (Arrays::of([array]), Arrays::of([earlier]));
    // SAFETY: both vectors are alive for the call; `out` is a valid vector to write to.
    let mut result =
        many("mlx_depends", |out| unsafe { mlx_sys::mlx_depends(out, arrays.0, earlier.0) })?;
    result.pop().ok_or_else(|| Exception::custom("depends gave nothing"))
}

/// `mlx::core::dequantize` to `dtype`.
pub(crate) fn dequantize(
    w: &Array,
    scales: &Array,
    biases: Option<&Array>,
    scheme: RawScheme,
    dtype: mlx_rs::Dtype,
) -> Result<Array> {
    let (null, stream) = (Slot::empty(), Stream::thread_local_or_default());
    let dtype = mlx_sys::mlx_optional_dtype { value: dtype.into(), has_value: true };
    // SAFETY: all handles are alive for the call; `out` is a valid handle to write to.
    one("mlx_dequantize", |out| unsafe {
        mlx_sys::mlx_dequantize(
            out,
            w.as_ptr(),
            scales.as_ptr(),
            biases.map_or(null.0, Array::as_ptr),
            some(scheme.group_size),
            some(scheme.bits),
            scheme.mode.as_ptr(),
            null.0,
            dtype,
            stream.as_ptr(),
        )
    })
}

/// `mlx::core::quantized_matmul` with the weight transposed: `x (.., in) -> (.., out)`.
pub(crate) fn quantized_matmul(
    x: &Array,
    w: &Array,
    scales: &Array,
    biases: Option<&Array>,
    scheme: RawScheme,
) -> Result<Array> {
    let (null, stream) = (Slot::empty(), Stream::thread_local_or_default());
    // SAFETY: all handles are alive for the call; `out` is a valid handle to write to.
    one("mlx_quantized_matmul", |out| unsafe {
        mlx_sys::mlx_quantized_matmul(
            out,
            x.as_ptr(),
            w.as_ptr(),
            scales.as_ptr(),
            biases.map_or(null.0, Array::as_ptr),
            true,
            some(scheme.group_size),
            some(scheme.bits),
            scheme.mode.as_ptr(),
            stream.as_ptr(),
        )
    })
}
