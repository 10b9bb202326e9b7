//! Calls of the C interface `cpu/c_api.h`. All `unsafe` of the CPU kernels is here.
//!
//! Every function that takes arrays trusts its caller to have checked shapes and dtypes.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::ptr::null;

use mlx_rs::error::{Exception, Result};
use mlx_rs::{Array, Stream};

use crate::mixer::MixerArgs;
use crate::{Activation, AdamWStep, CrossEntropyOptions};

/// The declarations that bindgen makes from `cpu/c_api.h`.
#[allow(missing_docs, non_camel_case_types, non_snake_case, unreachable_pub, clippy::all)]
mod c {
    include!(concat!(env!("OUT_DIR"), "/c_api.rs"));
}

/// Runs a call that makes `N` arrays on the stream of this thread.
fn make<const N: usize>(
    call: impl FnOnce(*const c::mlx_llamba_stream, *mut *mut c::mlx_llamba_array) -> c_int,
) -> Result<[Array; N]> {
    let stream = Stream::thread_local_or_default();
    let mut out = [std::ptr::null_mut(); N];
    status(call(stream.as_ptr().ctx.cast(), out.as_mut_ptr()))?;
    // SAFETY: status 0 says that every pointer is a new `mlx::core::array` that is ours now.
    Ok(out.map(|array| unsafe { Array::from_ptr(mlx_sys::mlx_array { ctx: array.cast() }) }))
}

/// [`make`] for one array.
fn make_one(
    call: impl FnOnce(*const c::mlx_llamba_stream, *mut *mut c::mlx_llamba_array) -> c_int,
) -> Result<Array> {
    make(call).map(|[array]| array)
}

fn status(status: c_int) -> Result<()> {
    if status == 0 {
        return Ok(());
    }
    // SAFETY: a text of this thread that ends with 0 and lives until the next failing call.
    let text = unsafe { CStr::from_ptr(c::mlx_llamba_error()) };
    Err(Exception::custom(text.to_string_lossy().into_owned()))
}

fn handle(array: &Array) -> *const c::mlx_llamba_array {
    array.as_ptr().ctx.cast()
}

fn optional(array: Option<&Array>) -> *const c::mlx_llamba_array {
    array.map_or(null(), handle)
}

/// Multiplies by a dense weight (0 bits), or by a packed one with scales and biases.
pub(super) fn matmul(
    x: &Array,
    weight: &Array,
    scales: Option<&Array>,
    biases: Option<&Array>,
    (bits, group): (usize, usize),
    int8: bool,
) -> Result<Array> {
    let args = c::mlx_llamba_matmul_args {
        x: handle(x),
        weight: handle(weight),
        scales: optional(scales),
        biases: optional(biases),
        bits: bits as c_int,
        group: group as c_int,
        int8: int8.into(),
    };
    // SAFETY: the handles are of arrays that live through the call, or null where the header
    // allows it; `out` has room for one.
    make_one(|stream, out| unsafe { c::mlx_llamba_matmul(&raw const args, stream, out) })
}

/// Starts this many threads for a trial, and returns how many the system gave.
pub(super) fn guard_process(threads: i32) -> i32 {
    // SAFETY: takes a number; the threads have ended when it returns.
    unsafe { c::mlx_llamba_guard_process(threads) }
}

/// Reads `memory` once with all threads; returns the sum of its whole parts of 2^18.
pub(super) fn read_memory(memory: &[f32]) -> Result<f32> {
    let mut sum = 0.0;
    // SAFETY: `memory` has that many floats and lives through the call, as `sum` does.
    status(unsafe { c::mlx_llamba_read_memory(memory.as_ptr(), memory.len() as _, &raw mut sum) })?;
    Ok(sum)
}

/// Returns y, the new convolution state and the new `H`. Everything is float32, but lengths, which
/// are int32.
pub(super) fn mixer(args: MixerArgs<'_>) -> Result<[Array; 3]> {
    let MixerArgs { input, state, weights, dims, activation } = args;
    let [h, g, p, n, k] = [dims.h, dims.g, dims.p, dims.n, dims.k].map(|size| size as c_int);
    let args = c::mlx_llamba_mixer_args {
        rows: handle(input.rows),
        conv: handle(&state.conv),
        ssm: handle(&state.ssm),
        conv_weight: handle(&weights.conv_weight),
        D: handle(&weights.D),
        A_log: optional(input.A_log),
        lengths: optional(input.lengths),
        conv_bias: optional(weights.conv_bias.as_ref()),
        z_bias: optional(weights.z_bias.as_ref()),
        dims: c::mlx_llamba_dims { h, g, p, n, k },
        silu: (activation == Activation::Silu).into(),
    };
    // SAFETY: as in `matmul`; `out` has room for three.
    make(|stream, out| unsafe { c::mlx_llamba_mixer(&raw const args, stream, out) })
}

/// `gate_up (.., 2m) -> (.., m)`
pub(super) fn swiglu(gate_up: &Array) -> Result<Array> {
    // SAFETY: as in `matmul`.
    make_one(|stream, out| unsafe { c::mlx_llamba_swiglu(handle(gate_up), stream, out) })
}

/// `gate, up (.., m) -> (.., m)`
pub(super) fn gate(gate: &Array, up: &Array) -> Result<Array> {
    let args = c::mlx_llamba_gate_args { gate: handle(gate), up: handle(up) };
    // SAFETY: as in `matmul`.
    make_one(|stream, out| unsafe { c::mlx_llamba_gate(&raw const args, stream, out) })
}

/// `e^x`
pub(super) fn exp(x: &Array) -> Result<Array> {
    // SAFETY: as in `matmul`.
    make_one(|stream, out| unsafe { c::mlx_llamba_exp(handle(x), stream, out) })
}

/// The softmax over the last axis.
pub(super) fn softmax(x: &Array) -> Result<Array> {
    // SAFETY: as in `matmul`.
    make_one(|stream, out| unsafe { c::mlx_llamba_softmax(handle(x), stream, out) })
}

/// Returns gradients (m, v) and sums (m, 3).
pub(super) fn cross_entropy(
    logits: &Array,
    teacher: Option<&Array>,
    how: CrossEntropyOptions,
) -> Result<[Array; 2]> {
    let CrossEntropyOptions { temperature, teacher_weight, next_weight } = how;
    let args = c::mlx_llamba_cross_entropy_args {
        logits: handle(logits),
        teacher: optional(teacher),
        how: c::mlx_llamba_comparison { temperature, teacher_weight, next_weight },
    };
    // SAFETY: as in `matmul`; `out` has room for two.
    make(|stream, out| unsafe { c::mlx_llamba_cross_entropy(&raw const args, stream, out) })
}

/// Returns `x + y` and its norm.
pub(super) fn add_rms_norm(
    x: &Array,
    y: &Array,
    weight: &Array,
    epsilon: f32,
) -> Result<[Array; 2]> {
    let (x, y, weight) = (handle(x), handle(y), handle(weight));
    let args = c::mlx_llamba_rms_norm_args { x, y, weight, epsilon };
    // SAFETY: as in `matmul`; `out` has room for two.
    make(|stream, out| unsafe { c::mlx_llamba_rms_norm(&raw const args, stream, out) })
}

/// Returns the norm of `x` alone.
pub(super) fn rms_norm(x: &Array, weight: &Array, epsilon: f32) -> Result<Array> {
    let (x, weight) = (handle(x), handle(weight));
    let args = c::mlx_llamba_rms_norm_args { x, y: null(), weight, epsilon };
    // SAFETY: as in `matmul`; without `y` one array is written.
    make_one(|stream, out| unsafe { c::mlx_llamba_rms_norm(&raw const args, stream, out) })
}

/// Returns the new parameter, m and v.
pub(super) fn adamw(arrays: [&Array; 5], how: AdamWStep) -> Result<[Array; 3]> {
    let [parameter, gradient, m, v, scale] = arrays.map(handle);
    let AdamWStep { beta1, beta2, root, epsilon, rate, kept, ahead: _ } = how;
    let how = c::mlx_llamba_adamw_factors { beta1, beta2, root, epsilon, rate, kept };
    let args = c::mlx_llamba_adamw_args { parameter, gradient, m, v, scale, how };
    // SAFETY: as in `matmul`; `out` has room for three.
    make(|stream, out| unsafe { c::mlx_llamba_adamw(&raw const args, stream, out) })
}

pub(super) fn simd() -> &'static str {
    // SAFETY: a constant text that ends with 0.
    let name = unsafe { CStr::from_ptr(c::mlx_llamba_simd()) };
    name.to_str().unwrap_or_default()
}

pub(super) fn set_simd(name: &str) -> bool {
    let Ok(name) = CString::new(name) else { return false };
    // SAFETY: the text ends with 0 and lives through the call.
    unsafe { c::mlx_llamba_set_simd(name.as_ptr()) == 0 }
}

pub(super) fn has_simd(name: &str) -> bool {
    let Ok(name) = CString::new(name) else { return false };
    // SAFETY: the text ends with 0 and lives through the call.
    unsafe { c::mlx_llamba_has_simd(name.as_ptr()) != 0 }
}

pub(super) fn threads() -> usize {
    // SAFETY: takes nothing.
    unsafe { c::mlx_llamba_threads() }.max(1) as usize
}

pub(super) fn set_threads(count: usize) {
    // SAFETY: any number is allowed.
    unsafe { c::mlx_llamba_set_threads(c_int::try_from(count).unwrap_or(c_int::MAX)) };
}

/// Returns the names of the operations that evaluating `outputs` would run, inputs first.
pub(super) fn operations(outputs: &[&Array]) -> Result<Vec<String>> {
    extern "C" fn visit(context: *mut c_void, name: *const c_char) {
        // SAFETY: `context` is the vector below, which nobody else uses during the call; `name` is
        // a text that ends with 0.
        let (names, name) = unsafe { (&mut *context.cast::<Vec<String>>(), CStr::from_ptr(name)) };
        names.push(name.to_string_lossy().into_owned());
    }
    let handles: Vec<_> = outputs.iter().map(|array| handle(array)).collect();
    let mut names: Vec<String> = Vec::new();
    // SAFETY: the handles are of live arrays; `visit` gets the vector that it expects.
    status(unsafe {
        c::mlx_llamba_operations(
            handles.as_ptr(),
            handles.len() as _,
            Some(visit),
            (&raw mut names).cast::<c_void>(),
        )
    })?;
    Ok(names)
}
