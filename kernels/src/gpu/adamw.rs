//! A step of AdamW by `adamw.metal`.

use mlx_rs::error::Exception;
use mlx_rs::{Array, Dtype};

use super::Run;
use super::call::{LaunchError, sizes};
use crate::adamw::AdamWStep;
use crate::mlx::launch::{Language, Launch, Output, Source};

static ADAMW: Source = Source {
    name: "llamba_adamw",
    inputs: &["parameter", "gradient", "m", "v", "how"],
    outputs: &["parameter_out", "m_out", "v_out"],
    language: Language::Metal,
    header: &[include_str!("../../metal/functions.metal")],
    body: include_str!("../../metal/adamw.metal"),
};

/// Elements of a thread.
const READS: usize = 4;

/// Returns the launch of a step on four arrays of `count` float32 elements, (count,) each.
///
/// # Errors
/// [`LaunchError::Unsupported`] for no elements and for 2^31 or more.
pub fn adamw_launch(count: usize) -> Result<Launch, LaunchError> {
    if count == 0 || i32::try_from(count).is_err() {
        return Err(LaunchError::Unsupported(format!("a parameter of {count} elements")));
    }
    let threads = count.div_ceil(READS).next_multiple_of(256);
    Ok(Launch {
        source: &ADAMW,
        template: sizes([("reads", READS)]).collect(),
        grid: (threads as i32, 1, 1),
        threadgroup: (256, 1, 1),
        outputs: vec![Output::new(&[count], Dtype::Float32); 3],
        threadgroup_bytes: 0,
        dynamic_bytes: 0,
    })
}

/// Computes a step by a launch that `run` takes; see [`Backend::adamw`](crate::Backend::adamw).
///
/// # Errors
/// [`LaunchError::Unsupported`] for other dtypes than float32; MLX's errors.
pub fn adamw(run: Run, arrays: [&Array; 4], how: AdamWStep) -> Result<[Array; 3], LaunchError> {
    if arrays.iter().any(|array| array.dtype() != Dtype::Float32) {
        return Err(LaunchError::Unsupported("the kernel takes float32".to_owned()));
    }
    let shape = arrays[0].shape();
    let launch = adamw_launch(arrays[0].size())?;
    let AdamWStep { scale, beta1, beta2, root, epsilon, rate, kept } = how;
    let how = Array::from_slice(&[scale, beta1, beta2, root, epsilon, rate, kept], &[7]);
    let flat: Vec<Array> =
        arrays.iter().map(|array| array.reshape(&[-1])).collect::<mlx_rs::error::Result<_>>()?;
    let inputs: Vec<&Array> = flat.iter().chain([&how]).collect();
    let outputs = run(&launch, &inputs)?
        .iter()
        .map(|output| output.reshape(shape))
        .collect::<mlx_rs::error::Result<Vec<_>>>()?;
    let three = |_| Exception::custom("a step of AdamW has three outputs");
    Ok(outputs.try_into().map_err(three)?)
}
