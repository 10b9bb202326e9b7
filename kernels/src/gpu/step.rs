//! The launch of `mixer_step.metal`: tokens one after the other.

use super::call::{LaunchError, MIXER_INPUTS, MIXER_OUTPUTS, MixerCall, THREADGROUP_BYTES};
use super::call::{float_bytes, mixer_outputs, mixer_template, sizes};
use crate::Dims;
use crate::mlx::launch::{Language, Launch, Source};

/// The number of tokens up to which a call gives the bits of single steps.
pub const MAX_STEPS: usize = 16;

/// The least number of state rows of a threadgroup, if its group of heads has that many.
///
/// Every threadgroup reads and convolves B and C of its group: about `36 n` bytes with k = 4 in
/// 2-byte activations, beside `8 n` bytes of state for each row. 128 rows keep that under 4 %.
const TILE_ROWS: usize = 128;

/// Simdgroups of a threadgroup. A kernel may use so many registers that Metal allows no more than
/// 384 threads; 256 always start.
const SIMDGROUPS: usize = 8;

static SOURCE: Source = Source {
    name: "llamba_mixer_step",
    inputs: MIXER_INPUTS,
    outputs: MIXER_OUTPUTS,
    language: Language::Metal,
    header: &[include_str!("../../metal/functions.metal"), include_str!("../../metal/rows.metal")],
    body: include_str!("../../metal/mixer_step.metal"),
};

/// Returns the launch for any number of tokens, one after the other: any h, g, p, n, k.
///
/// # Errors
/// [`LaunchError::Unsupported`] for other dtypes than float32, float16 and bfloat16, and where B
/// and C of one token do not fit in threadgroup memory.
pub fn mixer_step(call: &MixerCall) -> Result<Launch, LaunchError> {
    let MixerCall { dims, b, l, dtype, .. } = *call;
    let Dims { h, g, p, n, .. } = dims;
    float_bytes(dtype)?;
    let group_rows = h / g * p;
    let tiles = (group_rows / TILE_ROWS).max(1);
    let tile_rows = group_rows.div_ceil(tiles);
    let tiles = group_rows.div_ceil(tile_rows);
    let channels = tile_rows + 2 * n;
    let heads = (h / g).min(tile_rows / p + 2);

    let bytes = |tokens: usize| 4 * (tokens * (channels + tile_rows + heads) + heads);
    // Only three sizes, since each is compiled separately.
    let wanted = match l {
        1 => 1,
        2..=4 => 4,
        _ => MAX_STEPS,
    };
    let tokens = [wanted, 8, 4, 1]
        .into_iter()
        .find(|&tokens| tokens <= wanted && bytes(tokens) <= THREADGROUP_BYTES)
        .ok_or_else(|| {
            let bytes = bytes(1);
            LaunchError::Unsupported(format!(
                "one token of n = {n} takes {bytes} bytes of threadgroup memory, more than 32768"
            ))
        })?;

    let simdgroups = (channels + tile_rows).div_ceil(32).clamp(1, SIMDGROUPS);
    // Registers for 16 numbers of the state: enough loads in flight to wait only once.
    let held = (16 / n.div_ceil(32)).clamp(1, 8).min(tile_rows.div_ceil(simdgroups));
    let mut template = mixer_template(call);
    template.extend(sizes([
        ("tile_rows", tile_rows),
        ("tokens", tokens),
        ("held", held),
        ("simdgroups", simdgroups),
    ]));
    let threads = 32 * simdgroups as i32;
    Ok(Launch {
        source: &SOURCE,
        template,
        grid: (threads * tiles as i32, g as i32, b as i32),
        threadgroup: (threads, 1, 1),
        outputs: mixer_outputs(call),
        threadgroup_bytes: bytes(tokens),
        dynamic_bytes: 0,
    })
}
