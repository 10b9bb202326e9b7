//! Bytes of weights per second that matrix multiplications on the CPU read, beside the memory
//! bandwidth of the machine: `cargo bench -p mlx-llamba-kernels --bench matmul [-- OUT IN]`.
//!
//! Times are the best of several; the operations run through MLX like those of a model.

#![allow(clippy::unwrap_used)]

use std::time::{Duration, Instant};

use mlx_llamba_kernels::{Activations, Mode, Quantized, Scheme, Weight, cpu};
use mlx_rs::random::uniform;
use mlx_rs::{Array, Dtype};

const ROWS: [i32; 10] = [1, 2, 4, 8, 12, 16, 32, 128, 512, 2048];

/// Returns the seconds of the fastest of the calls that fit into half a second, at least three.
fn best(mut call: impl FnMut()) -> f64 {
    let start = Instant::now();
    let mut best = Duration::MAX;
    let mut calls = 0;
    while calls < 3 || start.elapsed() < Duration::from_millis(500) {
        let start = Instant::now();
        call();
        best = best.min(start.elapsed());
        calls += 1;
    }
    best.as_secs_f64()
}

fn main() {
    let numbers: Vec<i32> = std::env::args().filter_map(|arg| arg.parse().ok()).collect();
    let [out, columns] = numbers.try_into().unwrap_or([8192, 2048]);
    println!("{}, {} threads", cpu::simd(), cpu::threads());
    println!("memory: {:.1} GB/s", cpu::read_bandwidth().unwrap() / 1e9);
    println!("weight ({out}, {columns}); GB/s of weights, GFLOP/s, by rows");

    let dense = uniform::<_, f32>(-1.0, 1.0, &[out, columns], None).unwrap();
    let mut weights = vec![("f32".to_owned(), Weight::Dense(dense.clone()))];
    for dtype in [Dtype::Bfloat16, Dtype::Float16] {
        weights.push((format!("{dtype:?}"), Weight::Dense(dense.as_dtype(dtype).unwrap())));
    }
    for bits in [8, 6, 4, 3, 2] {
        let scheme = Scheme::new(64, bits, Mode::Affine).unwrap();
        let halves = dense.as_dtype(Dtype::Bfloat16).unwrap();
        let quantized = Quantized::quantize(&halves, scheme).unwrap();
        weights.push((format!("{bits} bits"), Weight::Quantized(quantized)));
    }
    let line = |name: &str, bytes: usize, product: &dyn Fn(&Array) -> Array| {
        print!("{name:13}");
        for rows in ROWS {
            let x = uniform::<_, f32>(-1.0, 1.0, &[rows, columns], None).unwrap();
            x.eval().unwrap();
            let seconds = best(|| product(&x).eval().unwrap());
            let flops = 2.0 * f64::from(rows) * f64::from(out) * f64::from(columns);
            print!("  {rows}: {:.1} {:.0}", bytes as f64 / seconds / 1e9, flops / seconds / 1e9);
        }
        println!();
    };
    for (name, weight) in &weights {
        let bytes = weight.arrays().iter().map(|array| array.nbytes()).sum();
        mlx_rs::transforms::eval(weight.arrays()).unwrap();
        line(name, bytes, &|x| cpu::matmul(x, weight).unwrap());
        if matches!(name.as_str(), "4 bits" | "8 bits") {
            let int8 = |x: &Array| cpu::matmul_with(x, weight, Activations::Int8).unwrap();
            line(&format!("{name} x int8"), bytes, &int8);
        }
    }
    line("MLX's f32", dense.nbytes(), &|x| x.matmul(dense.t()).unwrap());
}
