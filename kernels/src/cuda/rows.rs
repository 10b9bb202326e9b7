//! The launch of `rows.cu`: rows of an embedding in codes of 4 bits.

use super::unsupported;
use crate::Mode;
use crate::gpu::call::{float_bytes, sizes};
use crate::gpu::{Argument, Language, Launch, LaunchError, MatmulCall, Output, Source};

/// Inputs, in order: ids (m, 1), and a matrix as in [`MATMUL_INPUTS`](super::MATMUL_INPUTS).
pub const ROWS_INPUTS: &[&str] = &["ids", "weight", "scales", "biases"];

static SOURCE: Source = Source {
    name: "llamba_cuda_rows",
    inputs: ROWS_INPUTS,
    outputs: &["y"],
    language: Language::Cuda,
    header: &[include_str!("../../cuda/words.cuh")],
    body: include_str!("../../cuda/rows.cu"),
};

/// Threads of a block.
const THREADS: usize = 128;

/// Returns the launch that looks up `m` rows of a matrix, (m, 1, in).
///
/// # Errors
/// [`LaunchError::Unsupported`] for other schemes than affine codes of 4 bits, and other dtypes than
/// float32, float16 and bfloat16.
pub fn rows_launch(call: &MatmulCall) -> Result<Launch, LaunchError> {
    let MatmulCall { m, rows, columns, dtype, scheme, .. } = *call;
    float_bytes(dtype)?;
    if scheme.bits != 4 || scheme.mode != Mode::Affine || m == 0 || rows == 0 {
        return unsupported(format!("{m} rows of {rows} in {} bits are MLX's", scheme.bits));
    }
    let blocks = (m * columns / 8).div_ceil(THREADS);
    let Ok(grid) = i32::try_from(blocks * THREADS) else {
        return unsupported(format!("{m} rows are more than a grid has threads for"));
    };
    let mut template = vec![("T", Argument::Dtype(dtype))];
    template.extend(sizes([("group", scheme.group_size), ("threads", THREADS)]));
    Ok(Launch {
        source: &SOURCE,
        template,
        grid: (grid, 1, 1),
        threadgroup: (THREADS as i32, 1, 1),
        outputs: vec![Output::new(&[m, 1, columns], dtype)],
        threadgroup_bytes: 0,
        dynamic_bytes: 0,
    })
}
