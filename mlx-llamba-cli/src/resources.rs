//! The memory and threads that the system gives this process.

use anyhow::{Result, bail};
use rustix::process::{Resource, getrlimit};

/// Threads of MLX and of the command, beside those that share the work of an operation.
const THREADS: usize = 8;
/// Address space for their stacks and heaps, and for OpenBLAS, which waits for its buffer for ever.
const ADDRESSES: u64 = 512 << 20;

/// Refuses to run where a thread or a buffer would be missing that MLX cannot do without.
pub(crate) fn check() -> Result<()> {
    if let Some(limit) = getrlimit(Resource::As).current {
        let used = memory_stats::memory_stats().map_or(0, |memory| memory.virtual_mem as u64);
        if limit < used + ADDRESSES {
            bail!(
                "the address space is limited to {} MiB (ulimit -v); at least {} MiB are needed",
                limit >> 20,
                (used + ADDRESSES).div_ceil(1 << 20)
            );
        }
    }
    let given = mlx_llamba_kernels::cpu::guard_process(THREADS);
    if given < THREADS {
        bail!(
            "the system gives {given} of {THREADS} threads; allow more processes (ulimit -u, or the \
             container's limit)"
        );
    }
    Ok(())
}
