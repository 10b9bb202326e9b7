//! The launches of `swiglu.metal` and `add_rms_norm.metal`, and of the gradients of the gate and of norms.

use mlx_rs::error::Exception;
use mlx_rs::fast::rms_norm;
use mlx_rs::ops::sum_axis;
use mlx_rs::{Array, Dtype};

use super::call::{LaunchError, float_bytes, sizes};
use super::{Run, exactly};
use crate::mlx::launch::{Argument, Language, Launch, Output, Source};
use crate::mlx::{Result, with_gradient};

static SWIGLU: Source = Source {
    name: "llamba_swiglu",
    inputs: &["gate_up"],
    outputs: &["out"],
    language: Language::Metal,
    header: &[include_str!("../../metal/functions.metal")],
    body: include_str!("../../metal/swiglu.metal"),
};

static SWIGLU_GRADIENT: Source = Source {
    name: "llamba_swiglu_gradient",
    inputs: &["gate_up", "d_out"],
    outputs: &["d_gate_up"],
    language: Language::Metal,
    header: &[include_str!("../../metal/functions.metal")],
    body: include_str!("../../metal/swiglu_gradient.metal"),
};

static ADD_RMS_NORM: Source = Source {
    name: "llamba_add_rms_norm",
    inputs: &["x", "y", "weight"],
    outputs: &["sum", "normed"],
    language: Language::Metal,
    header: &[include_str!("../../metal/functions.metal")],
    body: include_str!("../../metal/add_rms_norm.metal"),
};

static RMS_NORM_GRADIENT: Source = Source {
    name: "llamba_rms_norm_gradient",
    inputs: &["x", "weight", "d_out"],
    outputs: &["d_x", "d_weight"],
    language: Language::Metal,
    header: &[include_str!("../../metal/functions.metal")],
    body: include_str!("../../metal/rms_norm_gradient.metal"),
};

/// Rows of a threadgroup of `rms_norm_gradient.metal`.
const SPAN: usize = 16;

/// Returns the launch of `silu(gate) * up` of (.., 2m), gate first, to (.., m).
///
/// # Errors
/// [`LaunchError::Unsupported`] for other dtypes, odd or empty arrays.
pub fn swiglu_launch(shape: &[i32], dtype: Dtype) -> Result<Launch, LaunchError> {
    let mut halved = shape.to_vec();
    if let Some(last) = halved.last_mut() {
        *last /= 2;
    }
    halves(&SWIGLU, shape, Output { shape: halved, dtype })
}

/// Returns the launch of the gradient of [`swiglu_launch`] with respect to its input, given that input
/// (.., 2m) and the gradient with respect to the output (.., m).
///
/// # Errors
/// As [`swiglu_launch`].
pub fn swiglu_gradient_launch(shape: &[i32], dtype: Dtype) -> Result<Launch, LaunchError> {
    halves(&SWIGLU_GRADIENT, shape, Output { shape: shape.to_vec(), dtype })
}

/// Returns a launch over the pairs of elements of an array of the shape (.., 2m).
fn halves(source: &'static Source, shape: &[i32], output: Output) -> Result<Launch, LaunchError> {
    let (rows, columns) = rows_of(shape, output.dtype)?;
    if columns % 2 != 0 {
        return Err(LaunchError::Unsupported(format!("{columns} columns are not two halves")));
    }
    let width = columns / 2;
    let reads = if width % 4 == 0 { 4 } else { 1 };
    let mut template = vec![("T", Argument::Dtype(output.dtype))];
    template.extend(sizes([("width", width), ("reads", reads)]));
    let threads = threads(rows, width / reads)?;
    // CUDA has whole threadgroups only: the largest power of two that divides the grid.
    let threadgroup = 1 << threads.trailing_zeros().min(8);
    Ok(Launch {
        source,
        template,
        grid: (threads, 1, 1),
        threadgroup: (threadgroup, 1, 1),
        outputs: vec![output],
        threadgroup_bytes: 0,
        dynamic_bytes: 0,
    })
}

/// Computes `silu(gate) * up` with its gradient, by launches that `run` takes; see
/// [`Backend::swiglu`](crate::Backend::swiglu).
///
/// # Errors
/// As [`swiglu_launch`]; MLX's errors.
pub fn swiglu_with_gradient(run: Run, gate_up: &Array) -> Result<Array, LaunchError> {
    let forward = swiglu_launch(gate_up.shape(), gate_up.dtype())?;
    let backward = swiglu_gradient_launch(gate_up.shape(), gate_up.dtype())?;
    let mut outputs = with_gradient(
        move |inputs: &[Array]| run(&forward, &[&inputs[0]]),
        move |inputs: &[Array], d: &[Array], _: &[Array]| run(&backward, &[&inputs[0], &d[0]]),
        std::slice::from_ref(gate_up),
    )?;
    outputs.pop().ok_or_else(|| Exception::custom("a gate without a result").into())
}

/// Returns the launch of `x + y` and its norm, both (.., d).
///
/// # Errors
/// [`LaunchError::Unsupported`] for other dtypes, empty arrays, and rows above 65536.
pub fn add_rms_norm_launch(
    shape: &[i32],
    dtype: Dtype,
    epsilon: f32,
) -> Result<Launch, LaunchError> {
    let (rows, _) = rows_of(shape, dtype)?;
    let outputs = vec![Output { shape: shape.to_vec(), dtype }; 2];
    norms(&ADD_RMS_NORM, shape, dtype, epsilon, (rows, 1, &[]), outputs)
}

/// Returns the launch of the gradients of `x / rms(x) * weight` with respect to x (m, d) and, summed over a few
/// rows each, to the weight: (parts, d) in float32.
///
/// # Errors
/// As [`add_rms_norm_launch`].
pub fn rms_norm_gradient_launch(
    shape: &[i32],
    dtype: Dtype,
    epsilon: f32,
) -> Result<Launch, LaunchError> {
    let (rows, d) = rows_of(shape, dtype)?;
    let parts = rows.div_ceil(SPAN);
    let outputs =
        vec![Output { shape: shape.to_vec(), dtype }, Output::new(&[parts, d], Dtype::Float32)];
    norms(&RMS_NORM_GRADIENT, shape, dtype, epsilon, (parts, 4, &[("span", SPAN)]), outputs)
}

/// Returns a launch with a number of threadgroups whose threads share rows of the shape (.., d), and whose
/// simdgroups have some words of threadgroup memory each.
fn norms(
    source: &'static Source,
    shape: &[i32],
    dtype: Dtype,
    epsilon: f32,
    (groups, words, extra): (usize, usize, &[(&'static str, usize)]),
    outputs: Vec<Output>,
) -> Result<Launch, LaunchError> {
    let (_, d) = rows_of(shape, dtype)?;
    if d > 65536 {
        return Err(LaunchError::Unsupported(format!("a row of {d} does not fit in registers")));
    }
    let reads = if d % 4 == 0 { 4 } else { 1 };
    // Eight elements per thread: two reads of four in flight.
    let simdgroups = d.div_ceil(8 * 32).clamp(1, 32);
    let mut template = vec![("T", Argument::Dtype(dtype))];
    template.extend(sizes([("d", d), ("reads", reads), ("simdgroups", simdgroups)]));
    template.extend(extra.iter().flat_map(|&size| sizes([size])));
    template.push(("epsilon", Argument::Int(epsilon.to_bits() as i32)));
    Ok(Launch {
        source,
        template,
        grid: (threads(groups, 32 * simdgroups)?, 1, 1),
        threadgroup: (32 * simdgroups as i32, 1, 1),
        outputs,
        threadgroup_bytes: 4 * simdgroups * words,
        dynamic_bytes: 0,
    })
}

/// Computes `x / rms(x) * weight` with its gradients, the kernel by launches that `run` takes; see
/// [`Backend::rms_norm`](crate::Backend::rms_norm).
///
/// # Errors
/// As [`rms_norm_gradient_launch`]; MLX's errors.
pub fn rms_norm_with_gradient(
    run: Run,
    x: &Array,
    weight: &Array,
    epsilon: f32,
) -> Result<Array, LaunchError> {
    let (rows, d) = rows_of(x.shape(), x.dtype())?;
    let flat = [rows as i32, d as i32];
    let backward = rms_norm_gradient_launch(&flat, x.dtype(), epsilon)?;
    let mut outputs = with_gradient(
        move |inputs: &[Array]| {
            Ok::<_, Exception>(vec![rms_norm(&inputs[0], Some(&inputs[1]), epsilon)?])
        },
        move |inputs: &[Array], d: &[Array], _: &[Array]| {
            let (x, weight) = (&inputs[0], &inputs[1]);
            let found = run(&backward, &[&x.reshape(&flat)?, weight, &d[0].reshape(&flat)?])?;
            let [by_x, by_weight] = exactly(&backward, found)?;
            let by_weight = sum_axis(&by_weight, 0, None)?.as_dtype(weight.dtype())?;
            Ok(vec![by_x.reshape(x.shape())?, by_weight])
        },
        &[x.clone(), weight.clone()],
    )?;
    outputs.pop().ok_or_else(|| Exception::custom("a norm without a result").into())
}

/// Returns the threads of all rows. They lie along x: y and z end at 65535 on CUDA GPUs.
fn threads(rows: usize, of_row: usize) -> Result<i32, LaunchError> {
    i32::try_from(rows * of_row).map_err(|_| {
        LaunchError::Unsupported(format!("{rows} rows take more threads than a grid has"))
    })
}

/// Returns the numbers of rows and columns of an array that is not empty.
fn rows_of(shape: &[i32], dtype: Dtype) -> Result<(usize, usize), LaunchError> {
    float_bytes(dtype)?;
    let sizes: Vec<usize> = shape.iter().map(|&s| s as usize).collect();
    match sizes.split_last() {
        Some((&columns, rows)) if columns > 0 && rows.iter().all(|&s| s > 0) => {
            Ok((rows.iter().product(), columns))
        }
        _ => Err(LaunchError::Unsupported(format!("an array {shape:?} has no rows"))),
    }
}
