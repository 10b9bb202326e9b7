//! The launch of `mixer_scan.cu`: chunks of tokens on tensor cores.

use super::{tiled, unsupported};
use crate::Dims;
use crate::gpu::call::float_bytes;
use crate::gpu::{Language, Launch, LaunchError, MIXER_INPUTS, MIXER_OUTPUTS, MixerCall, Source};

static SOURCE: Source = Source {
    name: "llamba_cuda_scan",
    inputs: MIXER_INPUTS,
    outputs: MIXER_OUTPUTS,
    language: Language::Cuda,
    header: &[
        include_str!("../../cuda/words.cuh"),
        include_str!("../../metal/functions.metal"),
        include_str!("../../cuda/mma.cuh"),
    ],
    body: include_str!("../../cuda/mixer_scan.cu"),
};

/// Tokens of a chunk.
const CHUNK: usize = 64;

/// Threads of a block.
const THREADS: usize = 256;

/// Returns the launch for any number of tokens, with blocks that may have `shared_bytes` of shared
/// memory.
///
/// # Errors
/// [`LaunchError::Unsupported`] for other dtypes than float16 and bfloat16, and for sizes that do not
/// suit tensor cores and 16-byte copies: see `mixer_scan.cu`.
pub fn scan(call: &MixerCall, shared_bytes: usize) -> Result<Launch, LaunchError> {
    let MixerCall { dims, dtype, split_A_log, .. } = *call;
    let Dims { h, p, n, k, .. } = dims;
    if float_bytes(dtype)? != 2 {
        return unsupported("tensor cores multiply 16-bit floats".into());
    }
    let width = dims.in_proj_dim() - if split_A_log { h } else { 0 };
    if n % 16 != 0 || width % 8 != 0 || k > 9 {
        let reason = format!("n = {n}, rows of {width} or k = {k} do not suit 16-byte copies");
        return unsupported(reason);
    }
    // The larger a tile, the fewer blocks compute the same C B^T; 128 columns of x leave too few
    // registers for two blocks on a multiprocessor, and are faster all the same.
    let bytes = |tile: usize| {
        let halves = (CHUNK + 8) * (tile + 2 * n) + CHUNK * (tile + 8) + 2 * CHUNK * (n + 8);
        2 * halves + 4 * (tile * (n + 4) + CHUNK)
    };
    let fits = |tile: &usize| {
        let columns = n * tile / 128;
        p.is_multiple_of(*tile)
            && columns.is_multiple_of(8)
            && columns <= 64
            && bytes(*tile) <= shared_bytes
    };
    let Some(tile) = [128, 64, 32, 16].into_iter().find(fits) else {
        return unsupported(format!(
            "p = {p} and n = {n} do not suit tensor cores and {shared_bytes} bytes of shared memory"
        ));
    };
    Ok(Launch { dynamic_bytes: bytes(tile), ..tiled(call, &SOURCE, tile, THREADS)? })
}
