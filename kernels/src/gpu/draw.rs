//! The launch of `draw.metal`.

use mlx_rs::Dtype;

use super::call::{LaunchError, float_bytes, sizes};
use crate::mlx::launch::{Argument, Language, Launch, Output, Source};

static DRAW: Source = Source {
    name: "llamba_draw",
    inputs: &["logits", "key"],
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
/// [`LaunchError::Unsupported`] for other dtypes, empty arrays, and 2^32 logits or more.
pub fn draw_launch(
    [b, width]: [usize; 2],
    dtype: Dtype,
    vocab: usize,
    temperature: f32,
    depth: f32,
) -> Result<Launch, LaunchError> {
    float_bytes(dtype)?;
    let threads = 32 * SIMDGROUPS;
    let Some(grid) = i32::try_from(b * threads).ok().filter(|_| b * vocab < 1 << 32) else {
        return Err(LaunchError::Unsupported(format!("{b} rows are too many for a launch")));
    };
    if !(temperature > 0.0 && depth >= 0.0) {
        let reason = format!("a temperature of {temperature} and a depth of {depth}");
        return Err(LaunchError::Unsupported(reason));
    }
    if b == 0 || vocab == 0 || vocab > width {
        let reason = format!("{b} rows of {width} logits have no {vocab} entries");
        return Err(LaunchError::Unsupported(reason));
    }
    let mut template = vec![("T", Argument::Dtype(dtype))];
    template.extend(sizes([("b", b), ("vocab", vocab), ("width", width)]));
    template.extend(sizes([("simdgroups", SIMDGROUPS)]));
    for (name, value) in [("temperature", temperature), ("depth", depth.abs())] {
        template.push((name, Argument::Int(value.to_bits() as i32)));
    }
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
