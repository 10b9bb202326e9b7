//! The launch of `rope.metal`.

use mlx_rs::Dtype;

use super::call::{LaunchError, float_bytes, sizes};
use crate::mlx::launch::{Argument, Language, Launch, Output, Source};

static ROPE: Source = Source {
    name: "llamba_rope",
    inputs: &["x", "wavelengths"],
    outputs: &["out"],
    language: Language::Metal,
    header: &[include_str!("../../metal/functions.metal")],
    body: include_str!("../../metal/rope.metal"),
};

/// Threads of a threadgroup.
const THREADS: usize = 256;

/// Returns the launch of [`Backend::rope`](crate::Backend::rope) for heads of `shape` (b, l, heads, k), of which
/// `turned` elements turn.
///
/// # Errors
/// [`LaunchError::Unsupported`] for other shapes and dtypes, empty arrays, and too many elements.
pub fn rope_launch(shape: &[i32], dtype: Dtype, turned: i32) -> Result<Launch, LaunchError> {
    float_bytes(dtype)?;
    let unsupported = |reason: String| Err(LaunchError::Unsupported(reason));
    let &[b, l, heads, k] = shape else {
        return unsupported(format!("heads {shape:?} have no four axes"));
    };
    if shape.contains(&0) || k % 2 != 0 || turned % 2 != 0 || !(1..=k).contains(&turned) {
        return unsupported(format!("{turned} elements do not turn in heads {shape:?}"));
    }
    let threads = b as usize * l as usize * (k as usize / 2);
    let Ok(grid) = i32::try_from(threads.next_multiple_of(THREADS)) else {
        return unsupported(format!("{threads} threads are more than a grid has"));
    };
    let mut template = vec![("T", Argument::Dtype(dtype))];
    let counts = [("heads", heads), ("k", k), ("turned", turned)];
    template.extend(sizes(counts.map(|(name, count)| (name, count as usize))));
    Ok(Launch {
        source: &ROPE,
        template,
        grid: (grid, 1, 1),
        threadgroup: (THREADS as i32, 1, 1),
        outputs: vec![Output { shape: shape.to_vec(), dtype }],
        threadgroup_bytes: 0,
        dynamic_bytes: 0,
    })
}
