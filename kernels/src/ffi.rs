//! The calls into MLX that `mlx-rs` does not offer: quantization in modes other than affine, and
//! an order between operations that share no data.
//!
//! All `unsafe` of this crate is here. Inputs are borrowed handles of live arrays; outputs are
//! fresh handles that become owned [`Array`]s, or are freed when MLX reports an error.

use std::ffi::CStr;

use mlx_rs::error::{Exception, Result};
use mlx_rs::{Array, Stream};

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

/// An owned handle that stands for "no array".
struct Null(mlx_sys::mlx_array);

impl Null {
    fn new() -> Self {
        // SAFETY: takes nothing and returns an empty handle.
        Self(unsafe { mlx_sys::mlx_array_new() })
    }
}

impl Drop for Null {
    fn drop(&mut self) {
        // SAFETY: the handle is owned by `self` and dropped once.
        unsafe { mlx_sys::mlx_array_free(self.0) };
    }
}

/// MLX reports errors through a process-wide handler; the first call of `mlx-rs` installs one
/// that does not end the process.
fn install_error_handler() -> Result<()> {
    mlx_rs::memory::active_memory().map(drop)
}

/// Runs a call that fills one array.
fn one(what: &str, call: impl FnOnce(*mut mlx_sys::mlx_array) -> i32) -> Result<Array> {
    install_error_handler()?;
    let mut out = Null::new();
    let status = call(&mut out.0);
    if status != 0 {
        return Err(Exception::custom(format!("{what} failed with status {status}")));
    }
    let handle = std::mem::replace(&mut out, Null::new());
    // SAFETY: MLX has put a valid, owned array into the handle, which `forget` leaves alone.
    let array = unsafe { Array::from_ptr(handle.0) };
    std::mem::forget(handle);
    Ok(array)
}

/// An owned list of arrays.
struct List(mlx_sys::mlx_vector_array);

impl List {
    /// The list that a call fills.
    fn from_call(
        what: &str,
        call: impl FnOnce(*mut mlx_sys::mlx_vector_array) -> i32,
    ) -> Result<Vec<Array>> {
        install_error_handler()?;
        // SAFETY: takes nothing and returns an empty vector, freed when the list is dropped.
        let mut list = Self(unsafe { mlx_sys::mlx_vector_array_new() });
        let status = call(&mut list.0);
        if status != 0 {
            return Err(Exception::custom(format!("{what} failed with status {status}")));
        }
        // SAFETY: the vector is valid.
        let len = unsafe { mlx_sys::mlx_vector_array_size(list.0) };
        let get = |i| {
            // SAFETY: the vector is valid and `i` below its length.
            one(what, |out| unsafe { mlx_sys::mlx_vector_array_get(out, list.0, i) })
        };
        (0..len).map(get).collect()
    }

    /// A list of one array.
    fn of(array: &Array) -> Self {
        // SAFETY: the handle is of a live array, of which the vector keeps its own reference.
        Self(unsafe { mlx_sys::mlx_vector_array_new_value(array.as_ptr()) })
    }
}

impl Drop for List {
    fn drop(&mut self) {
        // SAFETY: the vector is owned by `self` and freed once.
        unsafe { mlx_sys::mlx_vector_array_free(self.0) };
    }
}

/// `mlx::core::quantize`: packed weight, scales and, in affine mode, biases.
pub(crate) fn quantize(w: &Array, scheme: RawScheme) -> Result<Vec<Array>> {
    let (null, stream) = (Null::new(), Stream::thread_local_or_default());
    // SAFETY: all handles are alive for the call; `out` is a valid vector to write to.
    List::from_call("quantize", |out| unsafe {
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
    let (arrays, earlier) = (List::of(array), List::of(earlier));
    // SAFETY: both vectors are alive for the call; `out` is a valid vector to write to.
    let mut result = List::from_call("depends", |out| unsafe {
        mlx_sys::mlx_depends(out, arrays.0, earlier.0)
    })?;
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
    let (null, stream) = (Null::new(), Stream::thread_local_or_default());
    let dtype = mlx_sys::mlx_optional_dtype { value: dtype.into(), has_value: true };
    // SAFETY: all handles are alive for the call; `out` is a valid handle to write to.
    one("dequantize", |out| unsafe {
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
    let (null, stream) = (Null::new(), Stream::thread_local_or_default());
    // SAFETY: all handles are alive for the call; `out` is a valid handle to write to.
    one("quantized_matmul", |out| unsafe {
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
