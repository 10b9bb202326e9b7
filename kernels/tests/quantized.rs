//! Memory of matrix multiplications with quantized matrices. (Their values:
//! `tests/tests/mlx_parity.rs`.)

#![allow(clippy::unwrap_used)]

use mlx_llamba_kernels::{Mode, Quantized, Scheme};
use mlx_rs::{Array, Device, memory, random};

const WIDTH: i32 = 1024;

/// A chain of multiplications with many rows dequantizes one matrix after the other, although the
/// chain is one graph and dequantizing does not need the activations.
#[test]
fn one_matrix_is_dequantized_at_a_time() {
    memory::active_memory().unwrap();
    Device::set_default(&Device::cpu());
    let scheme = Scheme::new(64, 4, Mode::Affine).unwrap();
    let matrices: Vec<Quantized> = (0..12)
        .map(|_| {
            let w = random::normal::<f32>(&[WIDTH, WIDTH], None, None, None).unwrap();
            let quantized = Quantized::quantize(&w, scheme).unwrap();
            quantized.weight.eval().unwrap();
            quantized.scales.eval().unwrap();
            quantized
        })
        .collect();
    let mut x = Array::from_slice(&[0.01f32; 16 * WIDTH as usize], &[16, WIDTH]);
    for matrix in &matrices {
        x = matrix.matmul(&x).unwrap();
    }
    memory::clear_cache().unwrap();
    memory::reset_peak_memory().unwrap();
    let before = memory::active_memory().unwrap();
    x.eval().unwrap();
    let extra = memory::peak_memory().unwrap() - before;
    let dequantized = 4 * (WIDTH * WIDTH) as usize;
    // Half a matrix is a tile, which MLX unpacks in several passes: measured 2.0 matrices, and 16
    // if tiles do not wait for each other.
    assert!(extra < 3 * dequantized, "{} matrices", extra as f64 / dequantized as f64);
}
