//! A result that does not fit in memory is an error, of MLX's own operations too.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used)]

use mlx_llamba_kernels::cpu;
use mlx_rs::{Array, Stream, ops, with_stream};

#[test]
fn memory_that_runs_out_is_an_error() {
    let a = Array::from_slice(&[1.0_f32; 64], &[8, 8]);
    with_stream(&Stream::cpu(), || {
        // The allocator comes with the kernels.
        cpu::softmax(&a).unwrap().eval().unwrap();
        let huge = ops::zeros::<f32>(&[1 << 20, 1 << 20, 1 << 10]).unwrap();
        let error = ops::add(&huge, &huge).unwrap().eval().unwrap_err();
        assert!(error.what().contains("no memory for"), "{error}");
        // A size that fits is computed still.
        assert_eq!(a.sum(None).unwrap().item_exact::<f32>(), 64.0);
    });
}
