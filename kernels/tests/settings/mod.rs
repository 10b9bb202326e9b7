//! Instruction sets and threads of the CPU kernels. They are global to the process: one test at a
//! time changes them.

#![allow(dead_code, unreachable_pub)]

use std::sync::{Mutex, MutexGuard, PoisonError};

use mlx_llamba_kernels::cpu;

pub fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Returns numbers between -1 and 1.
pub fn numbers(seed: u64, count: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

/// Runs `f` with each instruction set of this machine.
pub fn with_every_instruction_set(mut f: impl FnMut(&str)) {
    for name in ["baseline", "avx2", "avx512"] {
        if cpu::set_simd(name) {
            f(name);
        }
    }
}
