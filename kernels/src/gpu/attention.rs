//! The launch of `ring_attention.metal`.

use mlx_rs::Dtype;

use super::call::{LaunchError, float_bytes, sizes};
use crate::mlx::launch::{Argument, Language, Launch, Output, Source};

static RING_ATTENTION: Source = Source {
    name: "llamba_ring_attention",
    inputs: &["queries", "keys", "values", "positions", "read"],
    outputs: &["y"],
    language: Language::Metal,
    header: &[include_str!("../../metal/functions.metal")],
    body: include_str!("../../metal/ring_attention.metal"),
};

/// Simdgroups of a threadgroup: enough streams of tokens to fill a GPU at small batches, few enough
/// that a text of some hundred tokens keeps them all busy.
const SIMDGROUPS: usize = 4;

/// Returns the launch of [`Backend::ring_attention`](crate::Backend::ring_attention) for queries of
/// `shape` (b, h, k) and `room` places of `g` heads, all in `dtype`.
///
/// # Errors
/// [`LaunchError::Unsupported`] for other dtypes, and for heads that are no power of two from 16 to
/// 256 wide or more than 8 to a group.
pub fn ring_attention_launch(
    shape: [usize; 3],
    g: usize,
    room: usize,
    dtype: Dtype,
    scale: f32,
) -> Result<Launch, LaunchError> {
    let [b, h, k] = shape;
    float_bytes(dtype)?;
    let unsupported = |reason: String| Err(LaunchError::Unsupported(reason));
    if !(16..=256).contains(&k) || !k.is_power_of_two() {
        return unsupported(format!("heads of {k} are no power of two from 16 to 256 wide"));
    }
    if h / g > 8 {
        return unsupported(format!("{} query heads to a group do not fit in registers", h / g));
    }
    let threads = 32 * SIMDGROUPS;
    let Ok(grid) = i32::try_from(b * g * threads) else {
        return unsupported(format!("{b} rows have more threads than a grid may have"));
    };
    // A thread has 8 elements of a token.
    let lanes = k / 8;
    let mut template = vec![("T", Argument::Dtype(dtype))];
    template.extend(sizes([("h", h), ("g", g), ("k", k), ("room", room)]));
    template.extend(sizes([("lanes", lanes), ("simdgroups", SIMDGROUPS)]));
    template.push(("scale", Argument::Int(scale.to_bits() as i32)));
    let streams = 32 / lanes * SIMDGROUPS;
    Ok(Launch {
        source: &RING_ATTENTION,
        template,
        grid: (grid, 1, 1),
        threadgroup: (threads as i32, 1, 1),
        outputs: vec![Output::new(&shape, dtype)],
        threadgroup_bytes: 4 * (h / g) * (2 * streams + SIMDGROUPS * k),
        dynamic_bytes: 0,
    })
}
