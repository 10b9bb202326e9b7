//! The launch of `mixer_step.cu`: one token.

use super::{tiled, unsupported};
use crate::Dims;
use crate::gpu::call::{float_bytes, sizes};
use crate::gpu::{Language, Launch, LaunchError, MIXER_INPUTS, MIXER_OUTPUTS, MixerCall, Source};

static SOURCE: Source = Source {
    name: "llamba_cuda_step",
    inputs: MIXER_INPUTS,
    outputs: MIXER_OUTPUTS,
    language: Language::Cuda,
    header: &[include_str!("../../cuda/words.cuh"), include_str!("../../metal/functions.metal")],
    body: include_str!("../../cuda/mixer_step.cu"),
};

/// Blocks from which on every multiprocessor of the largest GPUs has several.
const ENOUGH_BLOCKS: usize = 1024;

/// Threads of a block.
const THREADS: usize = 128;

/// Returns the launch for one token.
///
/// # Errors
/// [`LaunchError::Unsupported`] for other dtypes than float32, float16 and bfloat16, more than one
/// token, rows of their own lengths, and for sizes that do not fill a block: see `mixer_step.cu`.
pub fn step(call: &MixerCall) -> Result<Launch, LaunchError> {
    let MixerCall { dims: Dims { h, p, n, .. }, b, l, dtype, ragged, .. } = *call;
    float_bytes(dtype)?;
    if l != 1 || ragged {
        return unsupported("only whole steps of one token are computed by this kernel".into());
    }
    if !(16..=128).contains(&n) || !n.is_power_of_two() {
        return unsupported(format!("n = {n} is no power of two from 16 to 128"));
    }
    // A thread has 4 columns of `turns` rows, and writes the output of one of them.
    let lanes = n / 4;
    let rows = THREADS / lanes;
    let fits = |tile: &usize| {
        p.is_multiple_of(*tile)
            && tile.is_multiple_of(rows)
            && (1..=lanes.min(16)).contains(&(tile / rows))
    };
    let tiles: Vec<usize> = [64, 32, 16, 128, 8].into_iter().filter(fits).collect();
    let enough = |tile: &&usize| b * h * (p / **tile) >= ENOUGH_BLOCKS;
    let smallest = tiles.iter().min();
    let Some(&tile) = tiles.iter().find(enough).or(smallest) else {
        return unsupported(format!("p = {p} and n = {n} do not fill blocks of {THREADS} threads"));
    };
    let mut launch = tiled(call, &SOURCE, tile, THREADS)?;
    launch.template.retain(|(name, _)| *name != "ragged");
    launch.template.extend(sizes([("threads", THREADS)]));
    launch.threadgroup_bytes = 4 * (tile + 2 * n);
    Ok(launch)
}
