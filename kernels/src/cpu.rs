//! Kernels for CPUs, compiled from `cpu/` by the build script.
//!
//! They are nodes of MLX's graph like any other: lazy, and evaluated on the thread of a CPU stream,
//! which shares the work of each with a pool of threads. Activations are float32.

mod cross_entropy;
mod elementwise;
mod matmul;
mod mixer;
mod raw;

use mlx_rs::Array;

pub(crate) use cross_entropy::cross_entropy;
pub use elementwise::{add_rms_norm, exp, gate, rms_norm, swiglu};
pub use matmul::{matmul, supports};
pub(crate) use mixer::mixer;

/// The instruction set that the kernels use on this machine: `avx512`, `avx2`, `sse2` or `neon`.
/// `MLX_LLAMBA_SIMD` names a lower one (`baseline` for the lowest).
pub fn simd() -> &'static str {
    raw::simd()
}

/// Uses another instruction set from now on; false if this machine has not got it. For tests.
#[doc(hidden)]
pub fn set_simd(name: &str) -> bool {
    raw::set_simd(name)
}

/// Threads that share the work of an operation: the cores of this process, or
/// `MLX_LLAMBA_THREADS`.
pub fn threads() -> usize {
    raw::threads()
}

/// Uses so many threads from now on. For tests and benchmarks.
#[doc(hidden)]
pub fn set_threads(count: usize) {
    raw::set_threads(count);
}

/// The names of the operations that evaluating `outputs` would run, inputs first: what has been
/// computed already does not count, and what several outputs need counts once.
///
/// # Errors
/// If memory runs out.
pub fn primitives(outputs: &[&Array]) -> mlx_rs::error::Result<Vec<String>> {
    raw::operations(outputs)
}
