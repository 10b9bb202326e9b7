//! The launch of `masked_softmax.metal`.

use mlx_rs::Dtype;

use super::call::{LaunchError, float_bytes};
use crate::mlx::launch::{Argument, Language, Launch, Output, Source};

static MASKED_SOFTMAX: Source = Source {
    name: "llamba_masked_softmax",
    inputs: &["x", "mask"],
    outputs: &["out"],
    language: Language::Metal,
    header: &[include_str!("../../metal/functions.metal")],
    body: include_str!("../../metal/masked_softmax.metal"),
};

/// Threads of a threadgroup.
const THREADS: usize = 256;

/// Returns the launch of the softmax of scores (b, h, l, t) under a mask (b or 1, 1, l, t) of bool.
///
/// # Errors
/// [`LaunchError::Unsupported`] for other shapes and dtypes, empty arrays, and too many rows.
pub fn masked_softmax_launch(
    shape: &[i32],
    dtype: Dtype,
    mask: (&[i32], Dtype),
) -> Result<Launch, LaunchError> {
    float_bytes(dtype)?;
    let &[b, h, l, t] = shape else {
        return Err(LaunchError::Unsupported(format!("scores {shape:?} have no four axes")));
    };
    let fits = [[b, 1, l, t], [1, 1, l, t]].iter().any(|shape| mask.0 == shape);
    if !fits || mask.1 != Dtype::Bool || shape.contains(&0) {
        return Err(LaunchError::Unsupported(format!("a mask {mask:?} for scores {shape:?}")));
    }
    let rows = [b, h, l].map(|size| size as usize).iter().product::<usize>();
    let Ok(grid) = i32::try_from((32 * rows).next_multiple_of(THREADS)) else {
        return Err(LaunchError::Unsupported(format!("{rows} rows are too many for a launch")));
    };
    Ok(Launch {
        source: &MASKED_SOFTMAX,
        template: vec![("T", Argument::Dtype(dtype))],
        grid: (grid, 1, 1),
        threadgroup: (THREADS as i32, 1, 1),
        outputs: vec![Output { shape: shape.to_vec(), dtype }],
        threadgroup_bytes: 0,
        dynamic_bytes: 0,
    })
}
