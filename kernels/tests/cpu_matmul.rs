//! Products on the CPU against float64 products of the same matrix.

#![allow(clippy::unwrap_used)]

use mlx_llamba_kernels::{Weight, cpu};
use mlx_rs::Array;

#[test]
fn dense() {
    let w = Array::from_slice(&[1f32, 2., 3., 4., 5., 6.], &[2, 3]);
    let x = Array::from_slice(&[1f32, 10., 100.], &[1, 3]);
    let y = cpu::matmul(&x, &Weight::Dense(w)).unwrap();
    assert_eq!(cpu::primitives(&[&y]).unwrap(), ["LlambaMatmul"]);
    assert_eq!(y.as_slice::<f32>(), &[321., 654.]);
    println!("{} {}", cpu::simd(), cpu::threads());
}
