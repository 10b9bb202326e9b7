//! The launch of `draw.metal`.

use mlx_rs::Dtype;

use super::call::{LaunchError, float_bytes, sizes};
use crate::mlx::launch::{Argument, Language, Launch, Output, Source};

static DRAW: Source = Source {
    name: "llamba_draw",
    inputs: &["logits", "keys", "limits"],
    outputs: &["token"],
    language: Language::Metal,
    header: &[
        include_str!("../../metal/functions.metal"),
        include_str!("../../metal/threefry.metal"),
    ],
    body: include_str!("../../metal/draw.metal"),
};

/// Simdgroups of a threadgroup: a vocabulary has tens of thousands of entries.
const SIMDGROUPS: usize = 16;

/// Returns the launch of [`Backend::draw`](crate::Backend::draw) for logits (b, width) in `dtype`.
///
/// # Errors
/// [`LaunchError::Unsupported`] for other dtypes, empty arrays, and more rows than a grid has.
pub fn draw_launch(
    [b, width]: [usize; 2],
    dtype: Dtype,
    vocab: usize,
) -> Result<Launch, LaunchError> {
    float_bytes(dtype)?;
    let threads = 32 * SIMDGROUPS;
    let Ok(grid) = i32::try_from(b * threads) else {
        return Err(LaunchError::Unsupported(format!("{b} rows are too many for a launch")));
    };
    if b == 0 || vocab == 0 || vocab > width {
        let reason = format!("{b} rows of {width} logits have no {vocab} entries");
        return Err(LaunchError::Unsupported(reason));
    }
    let mut template = vec![("T", Argument::Dtype(dtype))];
    template.extend(sizes([("vocab", vocab), ("width", width), ("simdgroups", SIMDGROUPS)]));
    Ok(Launch {
        source: &DRAW,
        template,
        grid: (grid, 1, 1),
        threadgroup: (threads as i32, 1, 1),
        outputs: vec![Output::new(&[b], Dtype::Uint32)],
        threadgroup_bytes: 12 * SIMDGROUPS,
        dynamic_bytes: 0,
    })
}
