//! The launches of `swiglu.metal` and `add_rms_norm.metal`, and of the gradients of the gate and of norms.

use mlx_rs::error::Exception;
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
    inputs: &["x", "weight", "d_out", "d_sum"],
    outputs: &["d_x", "d_y", "d_weight"],
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
    let reads = reads(width, float_bytes(output.dtype)?);
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

/// The dtypes of a norm, and the arrays that it has to do with.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct NormCall {
    /// The dtype of x and of `x + y`.
    pub dtype: Dtype,
    /// The dtype of y and of the norm.
    pub narrow: Dtype,
    /// The norm is that of `x + y`, not that of x.
    pub residual: bool,
    /// Added to the mean of the squares.
    pub epsilon: f32,
}

/// Returns the launch of `x + y` and its norm, both (.., d).
///
/// # Errors
/// As [`norm_launch`].
pub fn add_rms_norm_launch(
    shape: &[i32],
    dtype: Dtype,
    epsilon: f32,
) -> Result<Launch, LaunchError> {
    norm_launch(shape, NormCall { dtype, narrow: dtype, residual: true, epsilon })
}

/// Returns the launch of a norm of rows (.., d), and of the sum that it is the norm of.
///
/// # Errors
/// [`LaunchError::Unsupported`] for other dtypes, empty arrays, and rows above 65536.
pub fn norm_launch(shape: &[i32], call: NormCall) -> Result<Launch, LaunchError> {
    let NormCall { dtype, narrow, residual, .. } = call;
    let (rows, _) = rows_of(shape, narrow)?;
    let sum: &[i32] = if residual { shape } else { &[1] };
    let of = |shape: &[i32], dtype| Output { shape: shape.to_vec(), dtype };
    let outputs = vec![of(sum, dtype), of(shape, narrow)];
    norms(&ADD_RMS_NORM, shape, call, (rows, 1), &[], &[], outputs)
}

/// Returns the launch of the gradients of [`norm_launch`] with respect to x (m, d), to y, if its dtype is another
/// one, and, summed over a few rows each, to the weight: (parts, d) in float32.
///
/// # Errors
/// As [`norm_launch`].
pub fn norm_gradient_launch(shape: &[i32], call: NormCall) -> Result<Launch, LaunchError> {
    let NormCall { dtype, narrow, residual, .. } = call;
    let (rows, d) = rows_of(shape, narrow)?;
    let (parts, rounded) = (rows.div_ceil(SPAN), residual && dtype != narrow);
    let by_y: &[i32] = if rounded { shape } else { &[1] };
    let of = |shape: &[i32], dtype| Output { shape: shape.to_vec(), dtype };
    let outputs =
        vec![of(shape, dtype), of(by_y, narrow), Output::new(&[parts, d], Dtype::Float32)];
    let flags = [("rounded", rounded)];
    norms(&RMS_NORM_GRADIENT, shape, call, (parts, 4), &[("span", SPAN)], &flags, outputs)
}

/// Returns a launch with a number of threadgroups whose threads share rows of the shape (.., d), and whose
/// simdgroups have some words of threadgroup memory each.
fn norms(
    source: &'static Source,
    shape: &[i32],
    call: NormCall,
    (groups, words): (usize, usize),
    extra: &[(&'static str, usize)],
    flags: &[(&'static str, bool)],
    outputs: Vec<Output>,
) -> Result<Launch, LaunchError> {
    let NormCall { dtype, narrow, residual, epsilon } = call;
    let (_, d) = rows_of(shape, dtype)?;
    if d > 65536 {
        return Err(LaunchError::Unsupported(format!("a row of {d} does not fit in registers")));
    }
    let reads = if d % 4 == 0 { 4 } else { 1 };
    // Eight elements per thread: two reads of four in flight.
    let simdgroups = d.div_ceil(8 * 32).clamp(1, 32);
    let mut template = vec![("T", Argument::Dtype(dtype)), ("U", Argument::Dtype(narrow))];
    template.extend(sizes([("d", d), ("reads", reads), ("simdgroups", simdgroups)]));
    template.extend(extra.iter().flat_map(|&size| sizes([size])));
    template.push(("residual", Argument::Bool(residual)));
    template.extend(flags.iter().map(|&(name, flag)| (name, Argument::Bool(flag))));
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

/// Computes `x / rms(x) * weight` in the dtype `narrow` with its gradients, by launches that `run` takes; see
/// [`Backend::rms_norm`](crate::Backend::rms_norm).
///
/// # Errors
/// As [`norm_launch`]; MLX's errors.
pub fn rms_norm_with_gradient(
    run: Run,
    x: &Array,
    weight: &Array,
    epsilon: f32,
    narrow: Dtype,
) -> Result<Array, LaunchError> {
    let call = NormCall { dtype: x.dtype(), narrow, residual: false, epsilon };
    let [normed] = exactly_of(norm_with_gradient(run, &[x, weight], call)?)?;
    Ok(normed)
}

/// Computes `x + y`, and `(x + y) / rms(x + y) * weight` in the dtype `narrow`, with their gradients, by launches
/// that `run` takes; see [`Backend::add_rms_norm`](crate::Backend::add_rms_norm).
///
/// # Errors
/// As [`norm_launch`], and [`LaunchError::Unsupported`] for summands of different shapes; MLX's errors.
pub fn add_rms_norm_with_gradient(
    run: Run,
    [x, y]: [&Array; 2],
    weight: &Array,
    epsilon: f32,
    narrow: Dtype,
) -> Result<(Array, Array), LaunchError> {
    if x.shape() != y.shape() {
        let reason = format!("the summands differ: {:?} and {:?}", x.shape(), y.shape());
        return Err(LaunchError::Unsupported(reason));
    }
    let call = NormCall { dtype: x.dtype(), narrow, residual: true, epsilon };
    let y = y.as_dtype(narrow)?;
    let [sum, normed] = exactly_of(norm_with_gradient(run, &[x, weight, &y], call)?)?;
    Ok((sum, normed))
}

/// Returns the sum, if there is one, and the norm, given x, the weight, and y for a sum.
fn norm_with_gradient(
    run: Run,
    inputs: &[&Array],
    call: NormCall,
) -> Result<Vec<Array>, LaunchError> {
    let shape = inputs[0].shape().to_vec();
    let (rows, d) = rows_of(&shape, call.dtype)?;
    if inputs[1].shape() != [d as i32] {
        let reason = format!("a weight {:?} does not fit rows {shape:?}", inputs[1].shape());
        return Err(LaunchError::Unsupported(reason));
    }
    let flat = [rows as i32, d as i32];
    let forward = norm_launch(&flat, call)?;
    let backward = norm_gradient_launch(&flat, call)?;
    let of_shape = shape.clone();
    let inputs: Vec<Array> = inputs.iter().map(|&input| input.clone()).collect();
    let outputs = with_gradient(
        move |inputs: &[Array]| {
            let (x, weight) = (&inputs[0], &inputs[1]);
            let found = run(&forward, &[x, inputs.get(2).unwrap_or(x), weight])?;
            let [sum, normed] = exactly(&forward, found)?;
            let normed = normed.reshape(&shape)?;
            Ok::<_, Exception>(match call.residual {
                true => vec![sum.reshape(&shape)?, normed],
                false => vec![normed],
            })
        },
        move |inputs: &[Array], d: &[Array], outputs: &[Array]| {
            let weight = &inputs[1];
            let (x, d_sum, d_normed) = match call.residual {
                true => (&outputs[0], &d[0], &d[1]),
                false => (&inputs[0], &inputs[0], &d[0]),
            };
            let [x, d_sum, d_normed] = [x, d_sum, d_normed].map(|array| array.reshape(&flat));
            let found = run(&backward, &[&x?, weight, &d_normed?, &d_sum?])?;
            let [by_x, by_y, by_weight] = exactly(&backward, found)?;
            let by_x = by_x.reshape(&of_shape)?;
            let by_weight = sum_axis(&by_weight, 0, None)?.as_dtype(weight.dtype())?;
            let mut all = vec![by_x.clone(), by_weight];
            if call.residual {
                let same = call.dtype == call.narrow;
                all.push(if same { by_x } else { by_y.reshape(&of_shape)? });
            }
            Ok(all)
        },
        &inputs,
    )?;
    Ok(outputs)
}

/// Returns the arrays of a list that has `N`.
fn exactly_of<const N: usize>(arrays: Vec<Array>) -> Result<[Array; N]> {
    arrays.try_into().map_err(|_| Exception::custom("a norm with other results than it has"))
}

/// Returns the number of neighbours that a thread reads at once: 16 bytes, if whole rows of `width` elements are
/// made of such.
fn reads(width: usize, bytes: usize) -> usize {
    [16 / bytes, 4].into_iter().find(|reads| width.is_multiple_of(*reads)).unwrap_or(1)
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
