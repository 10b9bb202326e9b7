//! The C interface of `cpu/` (see `cpu/c_api.h`). All `unsafe` of the CPU kernels is here.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::ptr::null;

use mlx_rs::error::{Exception, Result};
use mlx_rs::{Array, Stream};

use crate::{Activation, Dims, MixerInput, MixerState, MixerWeights};

// SAFETY: these are the functions that the build script compiles from `cpu/` and links. They take
// pointers to live MLX objects and keep none; no exception leaves them.
unsafe extern "C" {
    fn mlx_llamba_error() -> *const c_char;
    fn mlx_llamba_simd() -> *const c_char;
    fn mlx_llamba_set_simd(name: *const c_char) -> c_int;
    fn mlx_llamba_has_simd(name: *const c_char) -> c_int;
    fn mlx_llamba_threads() -> c_int;
    fn mlx_llamba_set_threads(count: c_int);
    fn mlx_llamba_read_memory(from: *const f32, count: usize, sum: *mut f32) -> c_int;
    fn mlx_llamba_operations(
        outputs: *const *const c_void,
        count: usize,
        visit: extern "C" fn(*mut c_void, *const c_char),
        context: *mut c_void,
    ) -> c_int;
    fn mlx_llamba_matmul(
        out: *mut *mut c_void,
        x: *const c_void,
        weight: *const c_void,
        scales: *const c_void,
        biases: *const c_void,
        bits: c_int,
        group: c_int,
        int8: c_int,
        stream: *const c_void,
    ) -> c_int;
    fn mlx_llamba_mixer(
        out: *mut *mut c_void,
        rows: *const c_void,
        conv: *const c_void,
        ssm: *const c_void,
        conv_weight: *const c_void,
        D: *const c_void,
        A_log: *const c_void,
        lengths: *const c_void,
        conv_bias: *const c_void,
        z_bias: *const c_void,
        dims: *const usize,
        silu: c_int,
        stream: *const c_void,
    ) -> c_int;
    fn mlx_llamba_swiglu(
        out: *mut *mut c_void,
        gate_up: *const c_void,
        stream: *const c_void,
    ) -> c_int;
    fn mlx_llamba_gate(
        out: *mut *mut c_void,
        gate: *const c_void,
        up: *const c_void,
        stream: *const c_void,
    ) -> c_int;
    fn mlx_llamba_exp(out: *mut *mut c_void, x: *const c_void, stream: *const c_void) -> c_int;
    fn mlx_llamba_cross_entropy(
        out: *mut *mut c_void,
        logits: *const c_void,
        teacher: *const c_void,
        temperature: f32,
        teacher_weight: f32,
        next_weight: f32,
        stream: *const c_void,
    ) -> c_int;
    fn mlx_llamba_softmax(out: *mut *mut c_void, x: *const c_void, stream: *const c_void) -> c_int;
    fn mlx_llamba_adamw(
        out: *mut *mut c_void,
        parameter: *const c_void,
        gradient: *const c_void,
        m: *const c_void,
        v: *const c_void,
        how: *const f32,
        stream: *const c_void,
    ) -> c_int;
    fn mlx_llamba_add_rms_norm(
        out: *mut *mut c_void,
        x: *const c_void,
        y: *const c_void,
        weight: *const c_void,
        epsilon: f32,
        stream: *const c_void,
    ) -> c_int;
}

/// Runs a call that makes `N` arrays on the stream of this thread.
fn make<const N: usize>(
    call: impl FnOnce(*mut *mut c_void, *const c_void) -> c_int,
) -> Result<[Array; N]> {
    let stream = Stream::thread_local_or_default();
    let mut out = [std::ptr::null_mut(); N];
    let status = call(out.as_mut_ptr(), stream.as_ptr().ctx);
    if status != 0 {
        return Err(last_error());
    }
    // SAFETY: status 0 says that every pointer is a new `mlx::core::array` that is ours now.
    Ok(out.map(|ctx| unsafe { Array::from_ptr(mlx_sys::mlx_array { ctx }) }))
}

fn last_error() -> Exception {
    // SAFETY: a text of this thread that ends with 0 and lives until the next failing call.
    let text = unsafe { CStr::from_ptr(mlx_llamba_error()) };
    Exception::custom(text.to_string_lossy().into_owned())
}

fn handle(array: &Array) -> *const c_void {
    array.as_ptr().ctx
}

fn optional(array: Option<&Array>) -> *const c_void {
    array.map_or(null(), handle)
}

/// `x (.., in) f32`, weight (out, in) with 0 bits, or packed with scales and biases. The caller has
/// checked shapes and dtypes.
pub(super) fn matmul(
    x: &Array,
    weight: &Array,
    scales: Option<&Array>,
    biases: Option<&Array>,
    (bits, group): (usize, usize),
    int8: bool,
) -> Result<Array> {
    let [out] = make(|out, stream| {
        // SAFETY: the handles are of arrays that are alive for the call, or null where that is
        // allowed; `out` has room for one.
        unsafe {
            mlx_llamba_matmul(
                out,
                handle(x),
                handle(weight),
                optional(scales),
                optional(biases),
                bits as c_int,
                group as c_int,
                c_int::from(int8),
                stream,
            )
        }
    })?;
    Ok(out)
}

/// Reads `memory` once with all threads; gives the sum of what was read (of whole parts of 2^18).
pub(super) fn read_memory(memory: &[f32]) -> Result<f32> {
    let mut sum = 0.0;
    // SAFETY: `memory` has that many floats and lives through the call, as `sum` does.
    match unsafe { mlx_llamba_read_memory(memory.as_ptr(), memory.len(), &raw mut sum) } {
        0 => Ok(sum),
        _ => Err(last_error()),
    }
}

/// Gives y, the new convolution state and the new `H`. Everything is float32, but lengths, which are
/// int32. The caller has checked shapes and dtypes.
pub(super) fn mixer(
    input: &MixerInput<'_>,
    state: &MixerState,
    weights: &MixerWeights,
    dims: Dims,
    activation: Activation,
) -> Result<[Array; 3]> {
    let dims = [dims.h, dims.g, dims.p, dims.n, dims.k];
    make(|out, stream| {
        // SAFETY: the handles are of arrays that are alive for the call, or null where that is
        // allowed; `out` has room for three, `dims` are the five that are read.
        unsafe {
            mlx_llamba_mixer(
                out,
                handle(input.rows),
                handle(&state.conv),
                handle(&state.ssm),
                handle(&weights.conv_weight),
                handle(&weights.D),
                optional(input.A_log),
                optional(input.lengths),
                optional(weights.conv_bias.as_ref()),
                optional(weights.z_bias.as_ref()),
                dims.as_ptr(),
                (activation == Activation::Silu).into(),
                stream,
            )
        }
    })
}

/// `gate_up (.., 2m) f32 -> (.., m)`. The caller has checked shape and dtype.
pub(super) fn swiglu(gate_up: &Array) -> Result<Array> {
    // SAFETY: the handle is of an array that is alive for the call; `out` has room for one.
    let [out] = make(|out, stream| unsafe { mlx_llamba_swiglu(out, handle(gate_up), stream) })?;
    Ok(out)
}

/// `gate, up (.., m) f32 -> (.., m)`. The caller has checked shapes and dtypes.
pub(super) fn gate(gate: &Array, up: &Array) -> Result<Array> {
    // SAFETY: the handles are of arrays that are alive for the call; `out` has room for one.
    let [out] =
        make(|out, stream| unsafe { mlx_llamba_gate(out, handle(gate), handle(up), stream) })?;
    Ok(out)
}

/// `e^x` of float32. The caller has checked the dtype.
pub(super) fn exp(x: &Array) -> Result<Array> {
    // SAFETY: the handle is of an array that is alive for the call; `out` has room for one.
    let [out] = make(|out, stream| unsafe { mlx_llamba_exp(out, handle(x), stream) })?;
    Ok(out)
}

/// `logits, teacher (m, v)`, float32 and not empty, to slopes (m, v) and sums (m, 3). The caller has
/// checked shapes and dtypes.
pub(super) fn cross_entropy(
    logits: &Array,
    teacher: Option<&Array>,
    [temperature, teacher_weight, next_weight]: [f32; 3],
) -> Result<[Array; 2]> {
    make(|out, stream| {
        // SAFETY: the handles are of arrays that are alive for the call, or null where that is
        // allowed; `out` has room for two.
        unsafe {
            mlx_llamba_cross_entropy(
                out,
                handle(logits),
                optional(teacher),
                temperature,
                teacher_weight,
                next_weight,
                stream,
            )
        }
    })
}

/// `x, y (.., d), weight (d,)`, all float32, to `x + y` and its norm. The caller has checked shapes
/// and dtypes.
pub(super) fn add_rms_norm(
    x: &Array,
    y: &Array,
    weight: &Array,
    epsilon: f32,
) -> Result<[Array; 2]> {
    // SAFETY: the handles are of arrays that are alive for the call; `out` has room for two.
    make(|out, stream| unsafe {
        mlx_llamba_add_rms_norm(out, handle(x), handle(y), handle(weight), epsilon, stream)
    })
}

/// The norm of `x (.., d)` alone. The caller has checked shapes and dtypes.
pub(super) fn rms_norm(x: &Array, weight: &Array, epsilon: f32) -> Result<Array> {
    // SAFETY: the handles are of arrays that are alive for the call, and null says that there is no
    // `y`; `out` has room for the one array that is then written.
    let [out] = make(|out, stream| unsafe {
        mlx_llamba_add_rms_norm(out, handle(x), null(), handle(weight), epsilon, stream)
    })?;
    Ok(out)
}

/// The softmax of `x (.., n) f32` over its last axis. The caller has checked shape and dtype.
pub(super) fn softmax(x: &Array) -> Result<Array> {
    // SAFETY: the handle is of an array that is alive for the call; `out` has room for one.
    let [out] = make(|out, stream| unsafe { mlx_llamba_softmax(out, handle(x), stream) })?;
    Ok(out)
}

/// Parameter, gradient and moments, of one shape in float32, to the new parameter and moments;
/// `how` as in `cpu/adamw.h`. The caller has checked shapes and dtypes.
pub(super) fn adamw(arrays: [&Array; 4], how: [f32; 7]) -> Result<[Array; 3]> {
    let [parameter, gradient, m, v] = arrays.map(handle);
    // SAFETY: the handles are of arrays that are alive for the call; `out` has room for three, and
    // `how` has the seven numbers that are read.
    make(|out, stream| unsafe {
        mlx_llamba_adamw(out, parameter, gradient, m, v, how.as_ptr(), stream)
    })
}

pub(super) fn simd() -> &'static str {
    // SAFETY: a constant text that ends with 0.
    let name = unsafe { CStr::from_ptr(mlx_llamba_simd()) };
    name.to_str().unwrap_or_default()
}

pub(super) fn set_simd(name: &str) -> bool {
    let Ok(name) = CString::new(name) else { return false };
    // SAFETY: the text ends with 0 and lives through the call.
    unsafe { mlx_llamba_set_simd(name.as_ptr()) == 0 }
}

pub(super) fn has_simd(name: &str) -> bool {
    let Ok(name) = CString::new(name) else { return false };
    // SAFETY: the text ends with 0 and lives through the call.
    unsafe { mlx_llamba_has_simd(name.as_ptr()) != 0 }
}

pub(super) fn threads() -> usize {
    // SAFETY: takes nothing.
    unsafe { mlx_llamba_threads() }.max(1) as usize
}

pub(super) fn set_threads(count: usize) {
    // SAFETY: any number is allowed.
    unsafe { mlx_llamba_set_threads(c_int::try_from(count).unwrap_or(c_int::MAX)) };
}

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
    let status = unsafe {
        mlx_llamba_operations(
            handles.as_ptr(),
            handles.len(),
            visit,
            (&raw mut names).cast::<c_void>(),
        )
    };
    if status == 0 { Ok(names) } else { Err(last_error()) }
}
