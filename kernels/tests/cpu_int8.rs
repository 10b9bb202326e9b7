//! Matrix multiplication with int8 activations, compared with float64 results for activations
//! rounded here, and for unrounded ones.
//!
//! Errors are relative to the sum of |w x|.

#![allow(clippy::panic, clippy::unwrap_used)]

mod settings;

use mlx_llamba_kernels::{Activations, Backend, Mode, Quantized, Scheme, Weight, cpu};
use mlx_rs::{Array, Dtype};
use settings::{alone, numbers, with_every_instruction_set};

/// Tolerance of the kernel, as in float32: measured 1.2e-7.
const TOLERANCE: f64 = 4e-7;
/// Tolerance of the rounding, for activations between -1 and 1: measured 1.6e-3 with rows of 32.
const ROUNDING: f64 = 4e-3;

fn weight(out: i32, columns: i32, bits: usize, group: usize, scales: Dtype) -> Weight {
    let w = Array::from_slice(&numbers(bits as u64, (out * columns) as usize), &[out, columns]);
    let scheme = Scheme::new(group, bits, Mode::Affine).unwrap();
    Weight::Quantized(Quantized::quantize(&w.as_dtype(scales).unwrap(), scheme).unwrap())
}

fn f32s(array: &Array) -> Vec<f32> {
    let array = array.as_dtype(Dtype::Float32).unwrap();
    array.eval().unwrap();
    array.as_slice::<f32>().to_vec()
}

/// The matrix (out, in), dequantized in float64.
fn dense(weight: &Weight) -> Vec<f64> {
    let Weight::Quantized(q) = weight else { panic!("dense") };
    let (scales, biases) = (f32s(&q.scales), f32s(q.biases.as_ref().unwrap()));
    q.weight.eval().unwrap();
    let (bits, words) = (q.scheme.bits, q.weight.as_slice::<u32>());
    let codes = words
        .iter()
        .flat_map(|word| (0..32 / bits).map(move |i| (word >> (i * bits)) & ((1 << bits) - 1)));
    codes
        .enumerate()
        .map(|(i, code)| {
            let group = i / q.scheme.group_size;
            f64::from(scales[group]) * f64::from(code) + f64::from(biases[group])
        })
        .collect()
}

/// Rounds `x` as the kernel does: to multiples of a 127th of the largest of 32.
fn rounded(x: &[f32]) -> Vec<f64> {
    let blocks = x.chunks(32).flat_map(|block| {
        let largest = block.iter().fold(0f32, |largest, x| largest.max(x.abs()));
        let (inverse, scale) = (127.0 / largest, largest / 127.0);
        block.iter().map(move |x| f64::from((x * inverse).round_ties_even()) * f64::from(scale))
    });
    blocks.collect()
}

/// The largest error of `y` (rows, out) relative to the sum of |w x|.
fn error(y: &[f32], x: &[f64], w: &[f64], columns: usize) -> f64 {
    let out = w.len() / columns;
    let mut worst = 0f64;
    for (i, y) in y.iter().enumerate() {
        let x = &x[i / out * columns..][..columns];
        let terms = || x.iter().zip(&w[i % out * columns..][..columns]).map(|(x, w)| x * w);
        let (sum, size) = (terms().sum::<f64>(), terms().map(f64::abs).sum::<f64>());
        worst = worst.max((f64::from(*y) - sum).abs() / size);
    }
    worst
}

fn product(x: &[f32], weight: &Weight, columns: usize) -> Vec<f32> {
    let x = Array::from_slice(x, &[(x.len() / columns) as i32, columns as i32]);
    f32s(&cpu::matmul_with(&x, weight, Activations::Int8).unwrap())
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

#[test]
fn multiplies_rounded_activations_for_any_rows_threads_and_registers() {
    let _alone = alone();
    let (mut worst, mut rounding) = (0f64, 0f64);
    for width in [4, 8] {
        for (group, scales) in [(32, Dtype::Float32), (64, Dtype::Bfloat16), (128, Dtype::Float16)]
        {
            // One group, groups that do not fill a step, several pieces, one output.
            for (out, groups) in [(37, 1), (101, 3), (6, 1152 / group), (1, 2176 / group)] {
                let columns = groups * group;
                let weight = weight(out, columns as i32, width, group, scales);
                let w = dense(&weight);
                // More rows than are rounded at a time.
                let x = numbers(7, 67 * columns);
                let what = format!("{width} bits, {out} x {groups} of {group}");
                let mut wide: Option<Vec<f32>> = None;
                with_every_instruction_set(|simd| {
                    cpu::set_threads(1);
                    let all = product(&x, &weight, columns);
                    let found = error(&all, &rounded(&x), &w, columns);
                    assert!(found < TOLERANCE, "{what}, {simd}: {found:.2e}");
                    worst = worst.max(found);
                    let exact: Vec<f64> = x.iter().copied().map(f64::from).collect();
                    let found = error(&all, &exact, &w, columns);
                    assert!(found < ROUNDING, "{what}, {simd}: {found:.2e}");
                    rounding = rounding.max(found);
                    for rows in 1..=17 {
                        for threads in [1, 2, 3] {
                            cpu::set_threads(threads);
                            let y = product(&x[..rows * columns], &weight, columns);
                            let same = bits(&y) == bits(&all[..rows * out as usize]);
                            assert!(same, "{what}, {simd}: {rows} rows on {threads} threads");
                        }
                    }
                    if simd != "baseline" {
                        let same = wide.as_ref().is_none_or(|wide| bits(wide) == bits(&all));
                        assert!(same, "{what}: {simd} gives other bits");
                        wide = Some(all);
                    }
                });
            }
        }
    }
    cpu::set_threads(2);
    println!("kernel {worst:.2e}, rounding {rounding:.2e}");
}

/// The largest possible codes and activations: no sum of products overflows.
#[test]
fn the_largest_codes_times_the_largest_activations() {
    let _alone = alone();
    for width in [4, 8] {
        let Weight::Quantized(mut q) = weight(5, 1152, width, 64, Dtype::Float32) else { return };
        q.weight =
            Array::full::<u32>(q.weight.shape(), Array::from_slice(&[u32::MAX], &[])).unwrap();
        q.scales = Array::ones::<f32>(q.scales.shape()).unwrap();
        q.biases = Some(Array::zeros::<f32>(q.scales.shape()).unwrap());
        let expected = 1152.0 * ((1 << width) - 1) as f32;
        with_every_instruction_set(|simd| {
            for sign in [1.0, -1.0] {
                let y = product(&[sign; 3 * 1152], &Weight::Quantized(q.clone()), 1152);
                for y in y {
                    let error = (y - sign * expected).abs() / expected;
                    assert!(error < 1e-6, "{width} bits, {simd}: {y}, expected {expected}");
                }
            }
        });
    }
}

#[test]
fn extreme_activations() {
    let _alone = alone();
    let columns = 192;
    let weight = weight(7, columns as i32, 4, 64, Dtype::Float32);
    let w = dense(&weight);
    with_every_instruction_set(|simd| {
        let with = |at: usize, value: f32| {
            let mut x = numbers(3, 2 * columns);
            x[at] = value;
            (product(&x, &weight, columns), x)
        };
        // Rows that are not finite in float32 are not finite here; other rows do not change.
        let (finite, _) = with(0, 0.5);
        for value in [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            for at in [0, 31, 32, columns - 1] {
                let (y, _) = with(at, value);
                assert!(y[..7].iter().all(|y| !y.is_finite()), "{simd}: {value} at {at}: {y:?}");
                assert_eq!(bits(&y[7..]), bits(&finite[7..]), "{simd}: {value} at {at}");
            }
        }
        // Large values are rounded like others; the small ones in their block are lost.
        for value in [1e30, -1e30, 1e37] {
            let (y, x) = with(40, value);
            let found = error(&y, &rounded(&x), &w, columns);
            assert!(found < TOLERANCE, "{simd}: {value}: {found:.2e}");
        }
        // Zeros, subnormals, and all values below 1e-36 count as 0.
        for value in [0.0, -0.0, f32::MIN_POSITIVE, 1e-45, -9e-37] {
            let y = product(&vec![value; columns], &weight, columns);
            assert!(y.iter().all(|&y| y == 0.0), "{simd}: {value}: {y:?}");
        }
        let y = product(&vec![2e-36; columns], &weight, columns);
        assert!(y.iter().any(|&y| y != 0.0), "{simd}");
    });
}

/// Other matrices give the bits of float32.
#[test]
fn other_weights_keep_float32_activations() {
    let _alone = alone();
    let x = Array::from_slice(&numbers(5, 3 * 192), &[3, 192]);
    let floats = Array::from_slice(&numbers(9, 11 * 192), &[11, 192]);
    let mut weights: Vec<_> =
        [2, 3, 5, 6].map(|bits| weight(11, 192, bits, 64, Dtype::Float16)).into();
    weights.push(Weight::Dense(floats));
    for weight in &weights {
        let int8 = cpu::matmul_with(&x, weight, Activations::Int8).unwrap();
        assert_eq!(bits(&f32s(&int8)), bits(&f32s(&cpu::matmul(&x, weight).unwrap())));
    }
    let weight = weight(11, 192, 4, 64, Dtype::Float16);
    let (rounds, not) = (Backend::CPU_INT8, Backend::CPU);
    let y = |backend: Backend| bits(&f32s(&backend.matmul(&x, &weight).unwrap()));
    assert_ne!(y(rounds), y(not));
    assert_eq!(y(rounds), bits(&product(&numbers(5, 3 * 192), &weight, 192)));
    assert_eq!(rounds.activations(), Activations::Int8);
    assert!(rounds.describe().contains("int8 activations"), "{}", rounds.describe());
}

#[test]
fn no_rows_and_no_columns() {
    let weight = weight(4, 64, 4, 32, Dtype::Float32);
    let none = Array::zeros::<f32>(&[0, 64]).unwrap();
    let y = cpu::matmul_with(&none, &weight, Activations::Int8).unwrap();
    y.eval().unwrap();
    assert_eq!(y.shape(), [0, 4]);
}
