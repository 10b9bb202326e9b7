//! The sum of the squares of many arrays, by `squares.metal`.

use mlx_rs::error::Exception;
use mlx_rs::ops::concatenate;
use mlx_rs::{Array, Dtype};

use super::Run;
use super::call::{LaunchError, sizes};
use super::constants::{floats, integers};
use crate::mlx::launch::{Language, Launch, Output, Source};

static SQUARES: Source = Source {
    name: "llamba_squares",
    inputs: &[
        "a0", "a1", "a2", "a3", "a4", "a5", "a6", "a7", "a8", "a9", "a10", "a11", "a12", "a13",
        "a14", "a15", "counts",
    ],
    outputs: &["sums"],
    language: Language::Metal,
    header: &[include_str!("../../metal/functions.metal")],
    body: include_str!("../../metal/squares.metal"),
};

/// Arrays of a launch: Metal allows 31 arguments.
const ARRAYS: usize = 16;

/// Simdgroups of a threadgroup, the most threadgroups, and elements that a thread has at least, if
/// there are fewer threadgroups.
const SIMDGROUPS: usize = 8;
const GROUPS: usize = 1024;
const READS: usize = 16;

/// Returns the launch for arrays with these numbers of float32 elements, which are flat; 16 at most.
///
/// # Errors
/// [`LaunchError::Unsupported`] for an array of 2^31 elements or more.
pub fn squares_launch(counts: &[usize]) -> Result<Launch, LaunchError> {
    if let Some(count) = counts.iter().find(|&&count| i32::try_from(count).is_err()) {
        return Err(LaunchError::Unsupported(format!("an array of {count} elements")));
    }
    let threads = 32 * SIMDGROUPS;
    let groups = counts.iter().sum::<usize>().div_ceil(READS * threads).clamp(1, GROUPS);
    Ok(Launch {
        source: &SQUARES,
        template: sizes([("simdgroups", SIMDGROUPS)]).collect(),
        grid: ((groups * threads) as i32, 1, 1),
        threadgroup: (threads as i32, 1, 1),
        outputs: vec![Output::new(&[groups], Dtype::Float32)],
        threadgroup_bytes: 4 * SIMDGROUPS,
        dynamic_bytes: 0,
    })
}

/// Computes the sum by launches that `run` takes; see
/// [`Backend::sum_of_squares`](crate::Backend::sum_of_squares).
///
/// # Errors
/// [`LaunchError::Unsupported`] for other dtypes than float32; MLX's errors.
pub fn sum_of_squares(run: Run, arrays: &[&Array]) -> Result<Array, LaunchError> {
    if arrays.iter().any(|array| array.dtype() != Dtype::Float32) {
        return Err(LaunchError::Unsupported("the kernel takes float32".to_owned()));
    }
    let none = floats(&[0.0]);
    let mut parts = Vec::new();
    for arrays in arrays.chunks(ARRAYS) {
        let mut counts: Vec<usize> = arrays.iter().map(|array| array.size()).collect();
        let launch = squares_launch(&counts)?;
        let mut inputs: Vec<Array> =
            arrays.iter().map(|array| array.reshape(&[-1])).collect::<Result<_, _>>()?;
        counts.resize(ARRAYS, 0);
        inputs.resize(ARRAYS, none.clone());
        counts.push(launch.grid.0 as usize);
        let counts: Vec<i32> = counts.iter().map(|&count| count as i32).collect();
        inputs.push(integers(&counts));
        let inputs: Vec<&Array> = inputs.iter().collect();
        let one = || Exception::custom("a sum of squares has one output");
        parts.push(run(&launch, &inputs)?.pop().ok_or_else(one)?);
    }
    match parts.is_empty() {
        true => Ok(Array::from_f32(0.0)),
        false => Ok(concatenate(&parts, 0)?.sum(None)?),
    }
}
