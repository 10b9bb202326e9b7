//! The calls into MLX that `mlx-rs` does not offer: quantization in modes other than affine, an
//! order between operations that share no data, and functions with a gradient of their own.
//! Inputs are borrowed handles of live arrays; outputs are
//! fresh handles that become owned [`Array`]s, or are freed when MLX reports an error.

use std::ffi::{CStr, c_int};
use std::panic::catch_unwind;

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

/// A linear function of one array and its transpose.
pub(crate) trait Linear {
    /// The value at `x`.
    fn forward(x: &Array) -> Result<Array>;

    /// The gradient with respect to `x`, given that with respect to the value.
    fn backward(cotangent: &Array) -> Result<Array>;
}

/// `L::forward(x)`, whose gradient is `L::backward` and not the one that MLX would derive.
pub(crate) fn linear<L: Linear>(x: &Array) -> Result<Array> {
    install_error_handler()?;
    // SAFETY: both take function pointers of the right types and return owned handles, freed below.
    let (forward, backward) = unsafe {
        (
            mlx_sys::mlx_closure_new_func(Some(forward::<L>)),
            mlx_sys::mlx_closure_custom_new_func(Some(backward::<L>)),
        )
    };
    // SAFETY: takes nothing and returns an empty handle, freed below.
    let mut both = unsafe { mlx_sys::mlx_closure_new() };
    // SAFETY: the three handles are valid; MLX copies the functions.
    let status = unsafe { mlx_sys::mlx_custom_vjp(&mut both, forward, backward) };
    let result = if status == 0 {
        let x = List::of(x);
        // SAFETY: all handles are alive for the call; `out` is a valid vector to write to.
        List::from_call("a function with its own gradient", |out| unsafe {
            mlx_sys::mlx_closure_apply(out, both, x.0)
        })
    } else {
        Err(Exception::custom(format!("custom_vjp failed with status {status}")))
    };
    // SAFETY: the three handles are owned here and freed once.
    unsafe {
        mlx_sys::mlx_closure_free(both);
        mlx_sys::mlx_closure_custom_free(backward);
        mlx_sys::mlx_closure_free(forward);
    }
    result?.pop().ok_or_else(|| Exception::custom("a function with its own gradient gave nothing"))
}

extern "C" fn forward<L: Linear>(
    out: *mut mlx_sys::mlx_vector_array,
    inputs: mlx_sys::mlx_vector_array,
) -> c_int {
    apply(L::forward, out, inputs)
}

extern "C" fn backward<L: Linear>(
    out: *mut mlx_sys::mlx_vector_array,
    _primals: mlx_sys::mlx_vector_array,
    cotangents: mlx_sys::mlx_vector_array,
    _outputs: mlx_sys::mlx_vector_array,
) -> c_int {
    apply(L::backward, out, cotangents)
}

/// Puts `f` of the only array of `inputs` into `out`; 1 where it fails.
fn apply(
    f: fn(&Array) -> Result<Array>,
    out: *mut mlx_sys::mlx_vector_array,
    inputs: mlx_sys::mlx_vector_array,
) -> c_int {
    // A panic must not reach C++.
    let made = catch_unwind(|| {
        // SAFETY: the vector that MLX passes is valid for the call, and `out` for the closure's.
        let input =
            one("an input", |out| unsafe { mlx_sys::mlx_vector_array_get(out, inputs, 0) })?;
        let mut made = List::of(&f(&input)?);
        // SAFETY: MLX gives a place that holds an empty handle; the handle moved there is MLX's to
        // free, and the empty one is freed here.
        unsafe { std::ptr::swap(out, &mut made.0) };
        Ok::<_, Exception>(())
    });
    c_int::from(!matches!(made, Ok(Ok(()))))
}
