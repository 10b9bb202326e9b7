//! Calls of the C interface `cpu/c_api.h`. All `unsafe` of the CPU kernels is here.
//!
//! Every function that takes arrays trusts its caller to have checked shapes and dtypes.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::ptr::null;

use mlx_rs::error::{Exception, Result};
use mlx_rs::{Array, Stream};

use crate::mixer::MixerArgs;
use crate::{
    Activation, AdamWStep, BlocksArgs, CrossEntropyOptions, Dims, LinearArgs, Scheme, Weight,
};

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
    Ok(out.map(owned))
}

/// Takes over an array that a successful call made.
fn owned(array: *mut c::mlx_llamba_array) -> Array {
    // SAFETY: status 0 says that every pointer is a new `mlx::core::array` that is ours now.
    unsafe { Array::from_ptr(mlx_sys::mlx_array { ctx: array.cast() }) }
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

/// The storage of a matrix; by default a dense one.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Coding {
    /// Bits of a code, 0 for floats.
    pub(super) bits: usize,
    /// Numbers that share a scale.
    pub(super) group: usize,
    /// The number of outputs, if the matrix is packed.
    pub(super) packed: usize,
}

impl Coding {
    fn raw(self) -> c::mlx_llamba_coding {
        let [bits, group, packed] = [self.bits, self.group, self.packed].map(|n| n as c_int);
        c::mlx_llamba_coding { bits, group, packed }
    }
}

/// Multiplies by a dense weight, or by codes with scales and biases.
pub(super) fn matmul<const N: usize>(
    x: &Array,
    parts: [&Array; N],
    coding: Coding,
    int8: bool,
) -> Result<Array> {
    let args = c::mlx_llamba_matmul_args {
        x: handle(x),
        weight: handle(parts[0]),
        scales: optional(parts.get(1).copied()),
        biases: optional(parts.get(2).copied()),
        coding: coding.raw(),
        int8: int8.into(),
    };
    // SAFETY: the handles are of arrays that live through the call, or null where the header
    // allows it; `out` has room for one.
    make_one(|stream, out| unsafe { c::mlx_llamba_matmul(&raw const args, stream, out) })
}

/// Returns a part of a matrix of codes, (out, n) of 2 or 4 bytes, in tiles.
pub(super) fn pack(part: &Array) -> Result<Array> {
    // SAFETY: as in `matmul`.
    make_one(|stream, out| unsafe { c::mlx_llamba_pack(handle(part), stream, out) })
}

/// Looks up and dequantizes rows of a packed matrix.
pub(super) fn rows(ids: &Array, parts: [&Array; 3], coding: Coding) -> Result<Array> {
    let [weight, scales, biases] = parts.map(handle);
    let args =
        c::mlx_llamba_rows_args { ids: handle(ids), weight, scales, biases, coding: coding.raw() };
    // SAFETY: as in `matmul`.
    make_one(|stream, out| unsafe { c::mlx_llamba_rows(&raw const args, stream, out) })
}

/// Starts this many threads for a trial, and returns how many the system gave.
pub(super) fn guard_process(threads: i32) -> i32 {
    // SAFETY: takes a number; the threads have ended when it returns.
    unsafe { c::mlx_llamba_guard_process(threads) }
}

/// Returns `count` floats in huge pages, where the system has them.
pub(super) fn huge_pages(count: usize, value: f32) -> Vec<f32> {
    let mut memory: Vec<f32> = Vec::with_capacity(count);
    // SAFETY: advice changes no contents, and this memory is the vector's.
    unsafe { c::mlx_llamba_huge_pages(memory.as_ptr().cast(), (count * size_of::<f32>()) as _) };
    memory.resize(count, value);
    memory
}

/// Reads `memory` once with all threads; returns the sum of its whole parts of 2^18.
pub(super) fn read_memory(memory: &[f32]) -> Result<f32> {
    let mut sum = 0.0;
    // SAFETY: `memory` has that many floats and lives through the call, as `sum` does.
    status(unsafe { c::mlx_llamba_read_memory(memory.as_ptr(), memory.len() as _, &raw mut sum) })?;
    Ok(sum)
}

fn raw_dims(dims: Dims) -> c::mlx_llamba_dims {
    let [h, g, p, n, k] = [dims.h, dims.g, dims.p, dims.n, dims.k].map(|size| size as c_int);
    c::mlx_llamba_dims { h, g, p, n, k }
}

/// Returns y, the new convolution state and the new `H`. Everything is float32, but lengths, which
/// are int32.
pub(super) fn mixer(args: MixerArgs<'_>) -> Result<[Array; 3]> {
    let MixerArgs { input, state, weights, dims, activation } = args;
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
        dims: raw_dims(dims),
        silu: (activation == Activation::Silu).into(),
    };
    // SAFETY: as in `matmul`; `out` has room for three.
    make(|stream, out| unsafe { c::mlx_llamba_mixer(&raw const args, stream, out) })
}

/// A matrix with its bias. Codes in the order of files are not of 4 or 8 bits.
fn linear(linear: &LinearArgs<'_>) -> c::mlx_llamba_linear {
    let (parts, coding): (Vec<&Array>, Coding) = match linear.weight {
        Weight::Dense(weight) => (vec![weight], Coding::default()),
        Weight::Packed(packed) => (packed.arrays().into(), super::matmul::coding(packed)),
        Weight::Quantized(q) => {
            let Scheme { bits, group_size: group, .. } = q.scheme;
            (linear.weight.arrays(), Coding { bits, group, packed: 0 })
        }
    };
    c::mlx_llamba_linear {
        weight: handle(parts[0]),
        scales: optional(parts.get(1).copied()),
        biases: optional(parts.get(2).copied()),
        bias: optional(linear.bias),
        coding: coding.raw(),
    }
}

/// Returns the norm after the last block, then the convolution state and `H` of every block.
pub(super) fn blocks(args: &BlocksArgs<'_>, int8: bool) -> Result<Vec<Array>> {
    // Matrices that not every block has.
    let others: Vec<_> = (args.blocks.iter())
        .map(|block| (block.A_log_proj.as_ref().map(linear), block.up.as_ref().map(linear)))
        .collect();
    let pointer =
        |one: &Option<c::mlx_llamba_linear>| one.as_ref().map_or(null(), |one| &raw const *one);
    let blocks: Vec<_> = (args.blocks.iter().zip(&others))
        .map(|(block, (A_log_proj, up))| c::mlx_llamba_block {
            mixer_norm: handle(block.mixer_norm),
            mlp_norm: handle(block.mlp_norm),
            in_proj: linear(&block.in_proj),
            A_log_proj: pointer(A_log_proj),
            out_proj: linear(&block.out_proj),
            gate: linear(&block.gate),
            up: pointer(up),
            down: linear(&block.down),
            conv_weight: handle(&block.mixer.conv_weight),
            D: handle(&block.mixer.D),
            conv_bias: optional(block.mixer.conv_bias.as_ref()),
            z_bias: optional(block.mixer.z_bias.as_ref()),
            conv: handle(&block.state.conv),
            ssm: handle(&block.state.ssm),
        })
        .collect();
    let args = c::mlx_llamba_blocks_args {
        x: handle(args.x),
        lengths: optional(args.lengths),
        final_norm: handle(args.final_norm.0),
        blocks: blocks.as_ptr(),
        count: blocks.len() as _,
        dims: raw_dims(args.dims),
        silu: (args.activation == Activation::Silu).into(),
        int8: int8.into(),
        epsilon: args.epsilon,
        final_epsilon: args.final_norm.1,
    };
    let stream = Stream::thread_local_or_default();
    let mut out = vec![std::ptr::null_mut(); 1 + 2 * blocks.len()];
    // SAFETY: `blocks` and `others` live through the call, and so do the arrays of all handles; `out`
    // has room for the outputs.
    status(unsafe {
        c::mlx_llamba_blocks(&raw const args, stream.as_ptr().ctx.cast(), out.as_mut_ptr())
    })?;
    Ok(out.into_iter().map(owned).collect())
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
