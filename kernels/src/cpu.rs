//! Kernels for CPUs, compiled from `cpu/` by the build script.
//!
//! They are nodes of MLX's graph like any other: lazy, and evaluated on the thread of a CPU stream,
//! which shares the work of each operation with a pool of threads. Activations are float32.

mod blocks;
mod cross_entropy;
mod elementwise;
mod matmul;
mod mixer;
mod operations;
mod raw;
mod settings;

use std::time::Instant;

use mlx_rs::Array;

pub use elementwise::{add_rms_norm, exp, gate, rms_norm, softmax, swiglu};
pub(crate) use matmul::rows;
pub use matmul::{matmul, matmul_with, supports};
pub(crate) use operations::{CPU, CPU_INT8};
pub use settings::SettingError;
pub(crate) use settings::check as check_settings;

/// Returns the instruction set that the kernels use on this machine: `avx512`, `avx2`, `sse2` or
/// `neon`. `MLX_LLAMBA_SIMD` selects a lower one (`baseline` for the lowest).
pub fn simd() -> &'static str {
    raw::simd()
}

/// Uses another instruction set from now on; returns false if this machine lacks it. For tests.
#[doc(hidden)]
pub fn set_simd(name: &str) -> bool {
    raw::set_simd(name)
}

/// Returns the number of threads that share the work of an operation: the cores of this process,
/// or `MLX_LLAMBA_THREADS`.
pub fn threads() -> usize {
    raw::threads()
}

/// Uses this many threads from now on. For tests and benchmarks.
#[doc(hidden)]
pub fn set_threads(count: usize) {
    raw::set_threads(count);
}

/// Makes the process end with a line of error and status 1 where C++ code would end it with a signal:
/// replaces the handlers of `std::terminate` and of SIGABRT. For programs, not for libraries.
///
/// Then starts `threads` threads at once, for a trial, and returns how many the system gave. MLX does
/// not survive it when it gets none.
pub fn guard_process(threads: usize) -> usize {
    let given = raw::guard_process(i32::try_from(threads).unwrap_or(i32::MAX));
    usize::try_from(given).unwrap_or(0)
}

/// Measures the bytes per second that all threads together read from memory: the limit of a matrix
/// multiplication with one row of activations. The best of five readings of 256 MiB; takes about a
/// tenth of a second.
///
/// # Errors
/// If memory runs out.
pub fn read_bandwidth() -> mlx_rs::error::Result<f64> {
    let memory = raw::huge_pages(1 << 26, 1.0);
    let mut best = 0.0_f64;
    for _ in 0..5 {
        let start = Instant::now();
        std::hint::black_box(raw::read_memory(std::hint::black_box(&memory))?);
        best = best.max(size_of_val(memory.as_slice()) as f64 / start.elapsed().as_secs_f64());
    }
    Ok(best)
}

/// Returns the names of the operations that evaluating `outputs` would run, inputs first.
/// Operations that have run are left out, and one that several outputs need is listed once.
///
/// # Errors
/// If memory runs out.
pub fn primitives(outputs: &[&Array]) -> mlx_rs::error::Result<Vec<String>> {
    raw::operations(outputs)
}
