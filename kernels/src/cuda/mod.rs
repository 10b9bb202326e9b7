//! The GPU kernels on NVIDIA's GPUs: kernels in CUDA for mixers of the sizes that models have and for
//! products with matrices of 4 bits, the Metal kernels through a dialect for all others and for everything else.

mod matmul;
mod recurrence;
mod rows;
mod scan;
mod step;

pub use matmul::{FEW_INPUTS, MATMUL_INPUTS, fused_matmul_launch, matmul_launch};
pub use recurrence::{recurrence, rounded_recurrence};
pub use rows::{ROWS_INPUTS, rows_launch};
pub use scan::scan;
pub use step::step;

use std::sync::LazyLock;

use crate::gpu::call::{mixer_outputs, mixer_template, sizes};
use crate::gpu::{self, Gpu, Launch, LaunchError, MixerCall, Source, Training};
use crate::mlx::Result;
use crate::mlx::custom_kernel::cuda;
use crate::mlx::properties::gpu_property;

/// The code that makes kernels in Metal kernels in CUDA.
pub const DIALECT: &str =
    concat!(include_str!("../../cuda/words.cuh"), "\n", include_str!("../../cuda/dialect.cuh"));

/// CUDA.
pub(crate) static CUDA: Gpu = Gpu {
    name: "CUDA",
    dialect: DIALECT,
    mixer: |call| mixer_launch(call, *SHARED_BYTES),
    matmul: Some(|call| matmul_launch(call, *SHARED_BYTES)),
    rows: Some(rows_launch),
    fused: Some(|call, fusion| fused_matmul_launch(call, fusion, *SHARED_BYTES)),
    dequantizes_from: 8,
    available: cuda::available,
    run: cuda::run,
    replays_steps: true,
    training: &TRAINING,
};

static TRAINING: Training = Training {
    name: "CUDA with gradients",
    gpu: &CUDA,
    run: |launch, inputs| CUDA.outputs(launch, inputs),
    recurrence: |call| recurrence(call, *SHARED_BYTES),
};

/// Returns true if the kernels in CUDA that multiply float32 round the factors.
pub(crate) fn rounds_products() -> Result<bool> {
    Ok(tf32() && *SHARED_BYTES > 0 && cuda::available()?)
}

/// Returns true if MLX rounds the factors of float32 products to 10 bits of mantissa (TF32), as it does unless
/// the environment has `MLX_ENABLE_TF32=0`.
pub(crate) fn tf32() -> bool {
    static TF32: LazyLock<bool> = LazyLock::new(|| {
        let value = std::env::var("MLX_ENABLE_TF32");
        value.ok().and_then(|value| value.trim().parse::<i32>().ok()) != Some(0)
    });
    *TF32
}

/// Shared memory that a block may have on this machine's GPU, in bytes; 0 where its tensor cores do not
/// take the operands of the kernels in CUDA.
static SHARED_BYTES: LazyLock<usize> = LazyLock::new(|| {
    let property = |key| gpu_property(key).unwrap_or(0);
    let capability = (property("compute_capability_major"), property("compute_capability_minor"));
    shared_bytes(capability)
});

/// Returns the shared memory that a block may have on GPUs of a compute capability, in bytes; 0 where
/// `mixer_scan.cu` and the products with quantized matrices do not run.
///
/// Source: NVIDIA's CUDA programming guide, "Technical specifications per compute capability".
pub fn shared_bytes(capability: (usize, usize)) -> usize {
    match capability {
        (..8, _) => 0,
        (8, 0 | 7) => 163 * 1024,
        (9..12, _) => 227 * 1024,
        _ => 99 * 1024,
    }
}

/// Returns the launch that computes a mixer: [`step`] for one token and [`scan`] for many where they
/// take the case, and otherwise the [Metal kernel](gpu::mixer_launch). A block may have `shared_bytes`
/// of shared memory.
///
/// # Errors
/// [`LaunchError::Unsupported`] if none takes the case.
pub fn mixer_launch(call: &MixerCall, shared_bytes: usize) -> Result<Launch, LaunchError> {
    let native = match call.l {
        1 => step(call),
        2..=gpu::MAX_STEPS => return gpu::mixer_launch(call),
        _ => scan(call, shared_bytes),
    };
    native.or_else(|_| gpu::mixer_launch(call))
}

/// Returns the launch of a kernel whose blocks have `tile` rows of the state of a head each.
fn tiled(
    call: &MixerCall,
    source: &'static Source,
    tile: usize,
    threads: usize,
) -> Result<Launch, LaunchError> {
    let blocks = call.b * call.dims.h * (call.dims.p / tile);
    let Ok(grid) = i32::try_from(blocks * threads) else {
        return unsupported(format!("{blocks} blocks have more threads than a grid may have"));
    };
    let mut template = mixer_template(call);
    template.extend(sizes([("tile", tile)]));
    Ok(Launch {
        source,
        template,
        grid: (grid, 1, 1),
        threadgroup: (threads as i32, 1, 1),
        outputs: mixer_outputs(call),
        threadgroup_bytes: 0,
        dynamic_bytes: 0,
    })
}

/// Returns the error of a kernel that does not take a case.
fn unsupported<T>(reason: String) -> Result<T, LaunchError> {
    Err(LaunchError::Unsupported(reason))
}
