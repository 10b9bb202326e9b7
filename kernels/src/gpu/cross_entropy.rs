//! Cross entropy over a vocabulary and its gradient, by `cross_entropy.metal`.

use mlx_rs::error::Exception;
use mlx_rs::ops::{split_at_indices, sum_axis};
use mlx_rs::{Array, Dtype};

use super::Run;
use super::call::{LaunchError, float_bytes, sizes};
use super::constants::floats;
use crate::cross_entropy::{CrossEntropy, CrossEntropyOptions};
use crate::mlx::launch::{Argument, Language, Launch, Output, Source};

static CROSS_ENTROPY: Source = Source {
    name: "llamba_cross_entropy",
    inputs: &["logits", "teacher", "how"],
    outputs: &["gradient", "row_sums"],
    language: Language::Metal,
    header: &[include_str!("../../metal/functions.metal")],
    body: include_str!("../../metal/cross_entropy.metal"),
};

/// Simdgroups of a threadgroup, and logits that a thread requests at a time: a vocabulary has tens of
/// thousands of entries.
const SIMDGROUPS: usize = 16;
const READS: usize = 4;

/// Returns the launch that compares logits (m, v) with a teacher's: their dtypes, and true if the
/// temperature is not 1.
///
/// # Errors
/// [`LaunchError::Unsupported`] for other dtypes, for empty arrays, and for more rows or columns than a
/// grid has threads.
pub fn cross_entropy_launch(
    [m, v]: [usize; 2],
    dtype: Dtype,
    teacher: Option<Dtype>,
    tempered: bool,
) -> Result<Launch, LaunchError> {
    float_bytes(dtype)?;
    float_bytes(teacher.unwrap_or(dtype))?;
    let threads = 32 * SIMDGROUPS;
    let (Ok(grid), Ok(_)) = (i32::try_from(m * threads), i32::try_from(v + READS * threads)) else {
        return Err(LaunchError::Unsupported(format!("{m} rows of {v} are too many for a launch")));
    };
    if m == 0 || v == 0 {
        return Err(LaunchError::Unsupported("there are no logits".to_owned()));
    }
    let mut template = vec![("T", Argument::Dtype(dtype))];
    template.push(("U", Argument::Dtype(teacher.unwrap_or(dtype))));
    template.extend(sizes([("v", v), ("simdgroups", SIMDGROUPS), ("reads", READS)]));
    template.push(("taught", Argument::Bool(teacher.is_some())));
    template.push(("tempered", Argument::Bool(tempered)));
    Ok(Launch {
        source: &CROSS_ENTROPY,
        template,
        grid: (grid, 1, 1),
        threadgroup: (threads as i32, 1, 1),
        outputs: vec![Output::new(&[m, v], dtype), Output::new(&[3, m], Dtype::Float32)],
        threadgroup_bytes: 4 * 7 * SIMDGROUPS,
        dynamic_bytes: 0,
    })
}

/// Compares logits (m, v) by a launch that `run` takes; see
/// [`Backend::cross_entropy`](crate::Backend::cross_entropy).
///
/// # Errors
/// [`LaunchError::Unsupported`] as for the launch; MLX's errors.
pub fn cross_entropy(
    run: Run,
    logits: &Array,
    teacher: Option<&Array>,
    how: CrossEntropyOptions,
) -> Result<CrossEntropy, LaunchError> {
    let CrossEntropyOptions { temperature, teacher_weight, next_weight } = how;
    let shape = [0, 1].map(|axis| logits.dim(axis) as usize);
    // Without a teacher there is nothing to divide.
    let tempered = teacher.is_some() && temperature != 1.0;
    let launch = cross_entropy_launch(shape, logits.dtype(), teacher.map(Array::dtype), tempered)?;
    let how = floats(&[1.0 / temperature, teacher_weight, next_weight]);
    // The kernel reads no teacher where there is none.
    let results = run(&launch, &[logits, teacher.unwrap_or(logits), &how])?;
    let [gradient, row_sums] = &results[..] else {
        return Err(Exception::custom("cross entropy has two outputs").into());
    };
    let sums = split_at_indices(&sum_axis(row_sums, 1, None)?, &[1, 2], 0)?;
    let [cross_entropy, kl, log_sum] = &sums[..] else {
        return Err(Exception::custom("three sums are not three").into());
    };
    Ok(CrossEntropy {
        gradient: gradient.clone(),
        cross_entropy: cross_entropy.reshape(&[])?,
        kl: kl.reshape(&[])?,
        log_sum: log_sum.reshape(&[])?,
    })
}
