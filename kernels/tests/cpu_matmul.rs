//! Matrix multiplication on the CPU, compared with float64 results of the same matrix: every
//! storage, sizes that no tile divides, every instruction set of this machine.
//!
//! Errors are relative to the sum of |w x|. Measured: 1.05e-7 with SSE2 (four lanes, so the longest
//! sums), 7.2e-8 with AVX2, 6.4e-8 with AVX-512.

#![allow(clippy::panic, clippy::unwrap_used)]

mod settings;

use mlx_llamba_kernels::{Backend, Mode, Quantized, Scheme, Weight, cpu};
use mlx_rs::ops::indexing::IndexOp;
use mlx_rs::{Array, Dtype};
use settings::{alone, numbers, with_every_instruction_set};

const TOLERANCE: f64 = 2e-7;
const FLOATS: [Dtype; 3] = [Dtype::Float32, Dtype::Float16, Dtype::Bfloat16];

fn array(seed: u64, shape: &[i32], dtype: Dtype) -> Array {
    let count = shape.iter().product::<i32>() as usize;
    Array::from_slice(&numbers(seed, count), shape).as_dtype(dtype).unwrap()
}

fn f32s(array: &Array) -> Vec<f32> {
    let array = array.as_dtype(Dtype::Float32).unwrap();
    array.eval().unwrap();
    array.as_slice::<f32>().to_vec()
}

/// The numbers of a weight (out, in), unpacked from the stream of bits here.
fn dense(weight: &Weight, columns: usize) -> Vec<f64> {
    match weight {
        Weight::Dense(w) => f32s(w).into_iter().map(f64::from).collect(),
        Weight::Quantized(q) => {
            let (scales, biases) = (f32s(&q.scales), f32s(q.biases.as_ref().unwrap()));
            q.weight.eval().unwrap();
            let bytes: Vec<u8> =
                q.weight.as_slice::<u32>().iter().flat_map(|word| word.to_le_bytes()).collect();
            let bits = q.scheme.bits;
            let code = |i: usize| {
                let bit = |k: usize| u32::from(bytes[k / 8] >> (k % 8) & 1);
                (0..bits).map(|k| bit(i * bits + k) << k).sum::<u32>()
            };
            (0..q.weight.dim(0) as usize * columns)
                .map(|i| {
                    let group = i / q.scheme.group_size;
                    f64::from(scales[group]) * f64::from(code(i)) + f64::from(biases[group])
                })
                .collect()
        }
        Weight::Packed(_) => panic!("packed"),
    }
}

/// The largest error of `y (rows, out)` relative to the sum of |w x|.
fn error(y: &[f32], x: &[f32], w: &[f64], columns: usize) -> f64 {
    let (rows, out) = (x.len() / columns, w.len() / columns);
    assert_eq!(y.len(), rows * out);
    let mut worst = 0f64;
    for row in 0..rows {
        for o in 0..out {
            let (mut sum, mut size) = (0f64, 0f64);
            for i in 0..columns {
                let term = f64::from(x[row * columns + i]) * w[o * columns + i];
                sum += term;
                size += term.abs();
            }
            let error = (f64::from(y[row * out + o]) - sum).abs() / size;
            assert!(error < TOLERANCE, "row {row}, output {o}: error {error:.2e}");
            worst = worst.max(error);
        }
    }
    worst
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

/// Checks all numbers of rows, instruction sets and numbers of threads.
fn check(weight: &Weight, columns: usize, what: &str) {
    let _guard = alone();
    let w = dense(weight, columns);
    let out = w.len() / columns;
    let x = numbers(7, 33 * columns);
    let best = cpu::simd();
    with_every_instruction_set(|simd| {
        // Everything else must equal all rows at once with one thread, to the bit.
        let mut all: Vec<f32> = Vec::new();
        let mut worst = 0f64;
        for rows in std::iter::once(33).chain(1..=17) {
            let input = Array::from_slice(&x[..rows * columns], &[rows as i32, columns as i32]);
            for threads in [1, 2, 3] {
                cpu::set_threads(threads);
                let y = cpu::matmul(&input, weight).unwrap();
                assert_eq!(y.shape(), [rows as i32, out as i32]);
                let y = f32s(&y);
                if all.is_empty() {
                    worst = error(&y, &x, &w, columns);
                    all = y;
                } else {
                    let same = bits(&all[..rows * out]) == bits(&y);
                    assert!(same, "{what}, {simd}: {rows} rows on {threads} threads");
                }
            }
        }
        println!("{what}, {simd}: {worst:.2e}");
    });
    assert!(cpu::set_simd(best) || cpu::set_simd("baseline"));
    cpu::set_threads(2);
}

fn quantized(out: i32, columns: i32, bits: usize, group_size: usize, scales: Dtype) -> Weight {
    let scheme = Scheme::new(group_size, bits, Mode::Affine).unwrap();
    let w = array(bits as u64, &[out, columns], scales);
    Weight::Quantized(Quantized::quantize(&w, scheme).unwrap())
}

#[test]
fn dense_weights() {
    for dtype in FLOATS {
        // A partial vector, several pieces with a partial one, one output.
        for (out, columns) in [(37, 5), (101, 100), (50, 1100), (1, 2049)] {
            let w = Weight::Dense(array(3, &[out, columns], dtype));
            check(&w, columns as usize, &format!("{dtype:?} {out} x {columns}"));
        }
    }
}

#[test]
fn codes_of_whole_words() {
    for bits in [2, 4, 8] {
        for (group, scales) in [(32, FLOATS[0]), (64, FLOATS[2]), (128, FLOATS[1])] {
            // One group, groups that do not fill a block, several pieces.
            for (out, groups) in [(37, 1), (101, 3), (6, 1152 / group as i32)] {
                let columns = groups * group as i32;
                let w = quantized(out, columns, bits, group, scales);
                check(&w, columns as usize, &format!("{bits} bits, {out} x {groups} of {group}"));
            }
        }
    }
}

fn same(a: &Quantized, b: &Quantized) -> bool {
    let equal = |a: &Array, b: &Array| a.eq_values(b).unwrap();
    equal(&a.weight, &b.weight)
        && equal(&a.scales, &b.scales)
        && equal(a.biases.as_ref().unwrap(), b.biases.as_ref().unwrap())
}

/// A packed matrix is the same matrix: unpacked, by rows, joined and multiplied.
#[test]
fn packed_codes() {
    let _guard = alone();
    for width in [4, 8] {
        // Rows that fill tiles, and rows that do not.
        for (out, group, scales) in [(32, 64, FLOATS[2]), (37, 32, FLOATS[1]), (5, 128, FLOATS[0])]
        {
            let Weight::Quantized(stored) = quantized(out, 384, width, group, scales) else {
                panic!("dense");
            };
            let arranged = Backend::CPU.arrange(Weight::Quantized(stored.clone())).unwrap();
            let Weight::Packed(packed) = &arranged else { panic!("not packed") };
            assert_eq!(packed.shape(), (out as usize, 384));
            let unpacked = packed.unpacked().unwrap();
            assert!(same(&unpacked, &stored));

            // An id past the last row reads the last.
            let ids = Array::from_slice(&[3u32, 0, out as u32 - 1, 3, 99], &[5]);
            let last = Array::from_slice(&[3u32, 0, out as u32 - 1, 3, out as u32 - 1], &[5]);
            let expected =
                f32s(&Weight::Quantized(stored.clone()).rows(&last, Dtype::Float32).unwrap());
            with_every_instruction_set(|simd| {
                let found = f32s(&arranged.rows(&ids, Dtype::Float32).unwrap());
                for (found, expected) in found.iter().zip(&expected) {
                    assert!((found - expected).abs() < 1e-6, "{simd}: {found} {expected}");
                }
            });

            let x = array(4, &[3, 384], Dtype::Float32);
            let y = |weight: &Weight| f32s(&Backend::CPU.matmul(&x, weight).unwrap());
            assert_eq!(bits(&y(&arranged)), bits(&y(&Weight::Quantized(stored.clone()))));
            let joined = Weight::join(&[&arranged, &arranged]).unwrap();
            assert_eq!(joined.is_some(), out % 16 == 0);
            if let Some(joined) = joined {
                let both = cpu::matmul(&x, &joined).unwrap();
                assert_eq!(both.shape(), [3, 2 * out]);
                assert_eq!(
                    bits(&f32s(&both.index((.., out..)).contiguous().unwrap())),
                    bits(&y(&arranged))
                );
            }
            // Back ends without such kernels take the matrix as it was.
            let Weight::Quantized(plain) = Backend::PLAIN.arrange(arranged.clone()).unwrap() else {
                panic!("packed for MLX");
            };
            assert!(same(&plain, &stored));
            let plain = f32s(&Backend::PLAIN.matmul(&x, &arranged).unwrap());
            for (plain, y) in plain.iter().zip(&y(&arranged)) {
                assert!((plain - y).abs() < 1e-4, "{plain} {y}");
            }
        }
    }
    let other = quantized(16, 64, 3, 64, Dtype::Float32);
    assert!(matches!(Backend::CPU.arrange(other).unwrap(), Weight::Quantized(_)));
}

#[test]
fn codes_across_words() {
    for bits in [3, 5, 6] {
        for (group, scales) in [(32, FLOATS[2]), (64, FLOATS[1]), (128, FLOATS[0])] {
            for (out, groups) in [(37, 1), (6, 1152 / group as i32)] {
                let columns = groups * group as i32;
                let w = quantized(out, columns, bits, group, scales);
                check(&w, columns as usize, &format!("{bits} bits, {out} x {groups} of {group}"));
            }
        }
    }
}

#[test]
fn every_f16_is_read() {
    let _guard = alone();
    // One column shows each number alone; a diagonal matrix would take 2^32 numbers.
    let halves: Vec<u16> = (0..=u16::MAX).collect();
    let w = Array::from_slice(&halves, &[1 << 16, 1]);
    let w = w.view_dtype(Dtype::Float16).unwrap();
    let x = Array::from_slice(&[1f32], &[1, 1]);
    let expected = f32s(&w);
    with_every_instruction_set(|_| {
        let y = f32s(&cpu::matmul(&x, &Weight::Dense(w.clone())).unwrap());
        for (half, (y, expected)) in y.iter().zip(&expected).enumerate() {
            assert!(y == expected || y.is_nan() && expected.is_nan(), "{half:04x}: {y} {expected}");
        }
    });
}

#[test]
fn is_a_lazy_operation_of_any_rank_and_layout() {
    let _guard = alone();
    let weight = quantized(40, 128, 4, 32, Dtype::Float32);
    let x = array(5, &[128, 3, 2], Dtype::Float32);
    x.eval().unwrap();
    let turned = x.transpose_axes(&[2, 1, 0]).unwrap(); // (2, 3, 128), strided
    let y = cpu::matmul(&turned, &weight).unwrap();
    assert_eq!(y.shape(), [2, 3, 40]);
    let names = cpu::primitives(&[&y, &y]).unwrap();
    assert_eq!(names.iter().filter(|name| *name == "LlambaMatmul").count(), 1, "{names:?}");
    let flat = f32s(&turned.reshape(&[6, 128]).unwrap());
    error(&f32s(&y), &flat, &dense(&weight, 128), 128);
    assert!(cpu::primitives(&[&y]).unwrap().is_empty());
    // No rows.
    let none = Array::zeros::<f32>(&[0, 128]).unwrap();
    assert_eq!(cpu::matmul(&none, &weight).unwrap().shape(), [0, 40]);
    // No columns.
    let empty = Weight::Dense(Array::zeros::<f32>(&[2, 0]).unwrap());
    let y = cpu::matmul(&Array::zeros::<f32>(&[3, 0]).unwrap(), &empty).unwrap();
    assert_eq!(f32s(&y), [0.0; 6]);
}

#[test]
fn wrong_shapes_and_dtypes_are_named() {
    let message = |x: &Array, w: &Weight| cpu::matmul(x, w).unwrap_err().to_string();
    let x = array(1, &[2, 64], Dtype::Float32);
    let w = Weight::Dense(array(1, &[3, 32], Dtype::Float32));
    assert!(message(&x, &w).contains("[2, 64]"), "{}", message(&x, &w));
    let half = x.as_dtype(Dtype::Float16).unwrap();
    assert!(message(&half, &w).contains("Float16"));
    let integers = Weight::Dense(array(1, &[3, 64], Dtype::Int32));
    assert!(message(&x, &integers).contains("Int32"));
    assert!(message(&x, &quantized(3, 128, 4, 32, Dtype::Float32)).contains("[3, 16]"));
    let coded = Scheme::new(32, 4, Mode::Mxfp4).unwrap();
    assert!(cpu::supports(&coded).is_err());
    let coded = Quantized::quantize(&array(1, &[3, 64], Dtype::Float32), coded).unwrap();
    assert!(message(&x, &Weight::Quantized(coded)).contains("mxfp4"));
}

/// Gradients with respect to x and the weight, compared with MLX's own, for sizes that no tile
/// divides.
#[test]
fn gradients_are_those_of_mlx() {
    for (b, l, columns, out) in [(1, 1, 5, 3), (2, 7, 37, 51), (3, 41, 130, 66)] {
        let x = array(1, &[b, l, columns], Dtype::Float32);
        let w = array(2, &[out, columns], Dtype::Float32);
        let d_y = array(3, &[b, l, out], Dtype::Float32);
        let gradients = |product: fn(&Array, &Array) -> Array| {
            let f = |inputs: &[Array]| vec![product(&inputs[0], &inputs[1])];
            mlx_rs::transforms::vjp(f, &[x.clone(), w.clone()], std::slice::from_ref(&d_y))
                .unwrap()
                .1
        };
        let found = gradients(|x, w| cpu::matmul(x, &Weight::Dense(w.clone())).unwrap());
        let expected = gradients(|x, w| x.matmul(w.t()).unwrap());
        for (found, expected) in found.iter().zip(&expected) {
            assert_eq!(found.shape(), expected.shape());
            let (found, expected) = (f32s(found), f32s(&expected.contiguous().unwrap()));
            for (i, (f, e)) in found.iter().zip(&expected).enumerate() {
                assert!((f - e).abs() < 1e-4 * (1.0 + e.abs()), "{i}: {f}, expected {e}");
            }
        }
    }
}

#[test]
fn codes_have_no_gradient() {
    let scheme = Scheme::new(32, 4, Mode::Affine).unwrap();
    let w = Quantized::quantize(&array(2, &[8, 64], Dtype::Float32), scheme).unwrap();
    let f = |x: &[Array]| vec![cpu::matmul(&x[0], &Weight::Quantized(w.clone())).unwrap()];
    let (x, d_y) = (array(1, &[2, 64], Dtype::Float32), array(3, &[2, 8], Dtype::Float32));
    let error = mlx_rs::transforms::vjp(f, &[x], &[d_y]).unwrap_err();
    assert!(error.to_string().contains("dense float32 weights only"), "{error}");
}

#[test]
fn a_result_without_memory_is_an_error() {
    // Nothing to sum, and 2^62 bytes of zeros to write.
    let empty = Array::zeros::<f32>(&[1 << 30, 0]).unwrap();
    let y = cpu::matmul(&empty, &Weight::Dense(empty.clone())).unwrap();
    let error = y.eval().unwrap_err();
    assert!(error.to_string().contains("no memory for"), "{error}");
}
