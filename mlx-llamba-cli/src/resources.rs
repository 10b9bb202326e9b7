//! The memory and threads that the system gives this process.

use anyhow::{Result, bail};
use rustix::fs::{Mode, OFlags};
use rustix::process::{Resource, getrlimit};

/// Threads of MLX and of the command, beside those that share the work of an operation.
const THREADS: usize = 8;
/// Address space for their stacks and heaps, and for OpenBLAS, which waits for its buffer for ever.
const ADDRESSES: u64 = 512 << 20;

/// Address space without which not even an error can be told: Rust ends a process whose allocation fails.
const LEAST_ADDRESSES: u64 = 16 << 20;

/// Returns true if the address space is limited to hardly more than what the process has. Allocates
/// nothing.
pub(crate) fn is_hardly_any_left() -> bool {
    let Some(limit) = getrlimit(Resource::As).current else { return false };
    let mut text = [0; 24];
    let read = rustix::fs::open("/proc/self/statm", OFlags::RDONLY, Mode::empty())
        .and_then(|file| rustix::io::read(file, &mut text));
    let Ok(length) = read else { return false };
    let digits = text[..length].iter().take_while(|digit| digit.is_ascii_digit());
    let pages = digits.fold(0u64, |pages, digit| pages * 10 + u64::from(digit - b'0'));
    limit < pages * rustix::param::page_size() as u64 + LEAST_ADDRESSES
}

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
