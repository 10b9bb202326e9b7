//! The list of shapes and edge cases on every back end that runs here: outputs and both states
//! beside the float64 oracle. The Metal kernels have it in `metal.rs`.

#![allow(non_snake_case, clippy::unwrap_used, clippy::panic)]

mod support;

use mlx_llamba_kernels::Backend;
use support::{Data, check, on, ragged, steps, tokens};

/// Largest error relative to the largest value, in float32.
const TOLERANCE: f64 = 4e-6;

fn all_equal_the_oracle(backend: Backend) {
    for case in [steps(), tokens(), ragged()].concat() {
        let data = Data::new(&case);
        check(&case, &on(backend, &case, &data), &data, TOLERANCE);
    }
}

#[test]
fn plain_operations_equal_the_oracle() {
    all_equal_the_oracle(Backend::Plain);
}

#[test]
fn cpu_kernels_equal_the_oracle() {
    all_equal_the_oracle(Backend::Cpu);
}
