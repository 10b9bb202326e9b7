//! The launch of `mixer_scan.metal`: chunks of tokens as matrix multiplications.

use super::call::{LaunchError, MIXER_INPUTS, MIXER_OUTPUTS, MixerCall, THREADGROUP_BYTES};
use super::call::{float_bytes, mixer_outputs, mixer_template, sizes};
use crate::Dims;
use crate::mlx::launch::{Language, Launch, Source};

/// Lengths of a chunk; the first that fits is used.
///
/// A chunk takes `q (n + p) / 2 + 2 n p` multiplications per token and head: 9.2, 10.2 and 12.3
/// thousand at n = p = 64 and q = 16, 32, 64. The state stays in registers, so short chunks cost no
/// memory traffic; they do cost barriers, four per chunk, and narrower matrices. At 32 both costs
/// are small. 64 would not fit in 32 KiB: M alone takes 17.
const CHUNKS: [usize; 3] = [32, 16, 8];

/// Simdgroups of a threadgroup: see `step.rs`.
const SIMDGROUPS: usize = 8;

/// Registers of a thread that may hold state; about as many again hold the chunk.
const STATE_REGISTERS: usize = 64;

static SOURCE: Source = Source {
    name: "llamba_mixer_scan",
    inputs: MIXER_INPUTS,
    outputs: MIXER_OUTPUTS,
    language: Language::Metal,
    header: &[
        include_str!("../../metal/functions.metal"),
        include_str!("../../metal/fragments.metal"),
    ],
    body: include_str!("../../metal/mixer_scan.metal"),
};

/// Returns the launch for any number of tokens, chunk after chunk.
///
/// # Errors
/// [`LaunchError::Unsupported`] for other dtypes than float32, float16 and bfloat16, for p or n
/// that are not multiples of 8, and where the state or a chunk is too large.
pub fn mixer_scan(call: &MixerCall) -> Result<Launch, LaunchError> {
    let MixerCall { dims, b, dtype, .. } = *call;
    let Dims { h, p, n, .. } = dims;
    let float = float_bytes(dtype)?;
    if p % 8 != 0 || n % 8 != 0 || p * n == 0 {
        let reason = format!("p = {p} and n = {n} are not multiples of 8");
        return Err(LaunchError::Unsupported(reason));
    }
    // The smallest number of strips of 8 rows that divides the state evenly among the simdgroups.
    let rows = p / 8;
    let strips = (1..=rows).find(|s| rows % s == 0 && rows / s <= SIMDGROUPS).unwrap_or(rows);
    if strips * n / 4 > STATE_REGISTERS {
        let reason = format!("a state of p = {p}, n = {n} does not fit in registers");
        return Err(LaunchError::Unsupported(reason));
    }
    // Simdgroups without a strip help with the convolution.
    let simdgroups = (p + 2 * n).div_ceil(32).clamp(rows / strips, SIMDGROUPS);

    let bytes = |q: usize| {
        let padding = 3 * 16 / float;
        float * q * (p + 2 * n + padding) + 4 * (q * (q + 4) + 3 * q + p)
    };
    let q = CHUNKS.into_iter().find(|&q| bytes(q) <= THREADGROUP_BYTES).ok_or_else(|| {
        LaunchError::Unsupported(format!(
            "chunks of p = {p}, n = {n} do not fit in threadgroup memory"
        ))
    })?;
    let mut template = mixer_template(call);
    template.extend(sizes([("q", q), ("strips", strips), ("simdgroups", simdgroups)]));
    let threads = 32 * simdgroups as i32;
    Ok(Launch {
        source: &SOURCE,
        template,
        grid: (threads, h as i32, b as i32),
        threadgroup: (threads, 1, 1),
        outputs: mixer_outputs(call),
        threadgroup_bytes: bytes(q),
        dynamic_bytes: 0,
    })
}
