//! A step of AdamW by `adamw.metal`.

use mlx_rs::error::Exception;
use mlx_rs::{Array, Dtype};

use super::Run;
use super::call::{LaunchError, sizes};
use super::constants::floats;
use crate::adamw::{AdamWResult, AdamWStep};
use crate::mlx::launch::{Argument, Language, Launch, Output, Source};

static ADAMW: Source = Source {
    name: "llamba_adamw",
    inputs: &["parameter", "gradient", "m", "v", "scale", "how"],
    outputs: &["parameter_out", "m_out", "v_out", "ahead_out"],
    language: Language::Metal,
    header: &[include_str!("../../metal/functions.metal")],
    body: include_str!("../../metal/adamw.metal"),
};

/// Elements of a thread.
const READS: usize = 4;

/// Returns the launch of a step on four arrays of `count` float32 elements, (count,) each, with a look
/// ahead or with one element in its place.
///
/// # Errors
/// [`LaunchError::Unsupported`] for no elements and for 2^31 or more.
pub fn adamw_launch(count: usize, ahead: bool) -> Result<Launch, LaunchError> {
    if count == 0 || i32::try_from(count).is_err() {
        return Err(LaunchError::Unsupported(format!("a parameter of {count} elements")));
    }
    let mut template: Vec<_> = sizes([("reads", READS)]).collect();
    template.push(("ahead", Argument::Bool(ahead)));
    let of = |count| Output::new(&[count], Dtype::Float32);
    let threads = count.div_ceil(READS).next_multiple_of(256);
    Ok(Launch {
        source: &ADAMW,
        template,
        grid: (threads as i32, 1, 1),
        threadgroup: (256, 1, 1),
        outputs: vec![of(count), of(count), of(count), of(if ahead { count } else { 1 })],
        threadgroup_bytes: 0,
        dynamic_bytes: 0,
    })
}

/// Computes a step by a launch that `run` takes; see [`Backend::adamw`](crate::Backend::adamw).
///
/// # Errors
/// [`LaunchError::Unsupported`] for other dtypes than float32; MLX's errors.
pub fn adamw(run: Run, arrays: [&Array; 5], how: AdamWStep) -> Result<AdamWResult, LaunchError> {
    if arrays.iter().any(|array| array.dtype() != Dtype::Float32) {
        return Err(LaunchError::Unsupported("the kernel takes float32".to_owned()));
    }
    let shape = arrays[0].shape();
    let launch = adamw_launch(arrays[0].size(), how.ahead.is_some())?;
    let AdamWStep { beta1, beta2, root, epsilon, rate, kept, ahead } = how;
    let momentum = ahead.unwrap_or(0.0);
    let how = floats(&[beta1, beta2, root, epsilon, rate, kept, momentum]);
    let flat: Vec<Array> =
        arrays.iter().map(|array| array.reshape(&[-1])).collect::<mlx_rs::error::Result<_>>()?;
    let inputs: Vec<&Array> = flat.iter().chain([&how]).collect();
    let results = run(&launch, &inputs)?;
    let [parameter, m, v, look_ahead] = &results[..] else {
        return Err(Exception::custom("a step of AdamW has four outputs").into());
    };
    let ahead = ahead.map(|_| look_ahead.reshape(shape)).transpose()?;
    let [parameter, m, v] = [parameter, m, v].map(|output| output.reshape(shape));
    Ok(AdamWResult { parameter: parameter?, m: m?, v: v?, ahead })
}
