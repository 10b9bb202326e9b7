//! The launch of `recurrence.cu`: the recurrence of training on tensor cores.

use super::{tf32, unsupported};
use crate::gpu::{
    Language, Launch, LaunchError, RECURRENCE_INPUTS, RECURRENCE_OUTPUTS, RecurrenceCall, Source,
    blocks_of, recurrence_launch,
};

static SOURCE: Source = Source {
    name: "llamba_cuda_recurrence",
    inputs: RECURRENCE_INPUTS,
    outputs: RECURRENCE_OUTPUTS,
    language: Language::Cuda,
    header: &[include_str!("../../cuda/words.cuh"), include_str!("../../cuda/mma.cuh")],
    body: include_str!("../../cuda/recurrence.cu"),
};

/// Tokens of a chunk.
const CHUNK: usize = 64;
/// Threads of a block.
const THREADS: usize = 256;

/// Returns the launch of the recurrence on GPUs whose blocks may have `shared_bytes` of shared memory: that
/// of `recurrence.cu` where float32 products may be rounded and the sizes suit it, else the
/// [Metal kernel](recurrence_launch).
///
/// # Errors
/// As [`recurrence_launch`].
pub fn recurrence(call: &RecurrenceCall, shared_bytes: usize) -> Result<Launch, LaunchError> {
    if tf32() {
        rounded_recurrence(call, shared_bytes).or_else(|_| recurrence_launch(call))
    } else {
        recurrence_launch(call)
    }
}

/// Returns the launch of `recurrence.cu`, which rounds the factors of products to 10 bits of mantissa.
///
/// # Errors
/// As [`recurrence_launch`], and [`LaunchError::Unsupported`] for an odd number of rows and for states that
/// `shared_bytes` have no room for.
pub fn rounded_recurrence(
    call: &RecurrenceCall,
    shared_bytes: usize,
) -> Result<Launch, LaunchError> {
    let RecurrenceCall { rows, columns, .. } = *call;
    if rows % 2 != 0 {
        return unsupported(format!("{rows} rows are not written in pairs"));
    }
    // Wide rows leave too few registers for the larger tile.
    let tile = if rows > 32 && columns <= 64 { 64 } else { 32 };
    let width = columns.max(1024 / tile).next_power_of_two();
    let words = CHUNK * (tile + 8) + (2 * CHUNK + tile) * (width + 8) + CHUNK;
    if 4 * words > shared_bytes {
        return unsupported(format!(
            "{rows} x {columns} states do not fit in {shared_bytes} bytes"
        ));
    }
    let launch = blocks_of(call, &SOURCE, tile, THREADS, [("tile", tile), ("width", width)])?;
    Ok(Launch { dynamic_bytes: 4 * words, ..launch })
}
