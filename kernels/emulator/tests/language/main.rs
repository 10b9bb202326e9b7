//! Kernels compute under the emulator what Metal specifies.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod launch;
mod matrix;
mod simd;
mod types;

use mlx_llamba_emulator::{Buffer, Dtype, Kernel, Launch, Run, run};

/// Runs a body with input `x` and output `y` (as many elements) on one threadgroup.
fn one_group(body: &str, x: &Buffer, out: Dtype, n: i32, threads: u32) -> Run {
    let kernel = Kernel::new("language", &["x"], &["y"], body);
    let launch = Launch {
        grid: [threads, 1, 1],
        threadgroup: [threads, 1, 1],
        outputs: vec![(vec![n], out)],
        ..Launch::default()
    };
    run_clean(&kernel, std::slice::from_ref(x), &launch)
}

fn iota(n: i32) -> Buffer {
    Buffer::new(Dtype::F32, &[n], (0..n).map(f64::from))
}

fn run_clean(kernel: &Kernel, inputs: &[Buffer], launch: &Launch) -> Run {
    match run(kernel, inputs, launch) {
        Ok(run) => run,
        Err(e) => panic!("{e}"),
    }
}

/// Values with every lane different and no symmetry.
fn uneven(n: i32) -> Buffer {
    Buffer::new(Dtype::F32, &[n], (0..n).map(|i| f64::from((i * 37) % 53) - 20.0))
}
