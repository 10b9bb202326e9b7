//! Instruction sets and threads of the CPU kernels. They are global to the process: one test at a
//! time changes them.

#![allow(unreachable_pub)]

use std::sync::{Mutex, MutexGuard, PoisonError};

use mlx_llamba_kernels::cpu;

pub fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs `f` with each instruction set of this machine.
pub fn with_every_instruction_set(mut f: impl FnMut(&str)) {
    for name in ["baseline", "avx2", "avx512"] {
        if cpu::set_simd(name) {
            f(name);
        }
    }
}
