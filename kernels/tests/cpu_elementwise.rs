//! The small kernels for CPUs against float64, with every instruction set of this machine.

#![allow(clippy::unwrap_used, clippy::panic)]

mod settings;

use mlx_llamba_kernels::check::Values;
use mlx_llamba_kernels::cpu;
use mlx_rs::{Array, Dtype};
use proptest::prelude::*;
use settings::{alone, with_every_instruction_set};

/// Largest error relative to the largest value of a row; 3000 random cases stayed below 4e-7.
const TOLERANCE: f64 = 1e-6;

fn array(values: &[f32], shape: &[usize]) -> Array {
    let shape: Vec<i32> = shape.iter().map(|&size| size as i32).collect();
    Array::from_slice(values, &shape)
}

fn values(array: &Array) -> Vec<f32> {
    array.to_vec_exact().unwrap()
}

/// Compares rows of `width`; a failure prints the first five mismatches.
fn assert_close(what: &str, found: &[f32], expected: &[f64], width: usize) {
    assert_eq!(found.len(), expected.len(), "{what}: number of values");
    let mut bad = Vec::new();
    for (row, expected) in expected.chunks(width).enumerate() {
        let scale = expected.iter().fold(1e-30f64, |most, value| most.max(value.abs()));
        for (i, (found, expected)) in found[row * width..].iter().zip(expected).enumerate() {
            let error = (f64::from(*found) - expected).abs();
            if error.is_nan() || error > TOLERANCE * scale {
                bad.push(format!("[{row}, {i}] {found} instead of {expected}"));
            }
        }
    }
    bad.truncate(5);
    assert!(bad.is_empty(), "{what}: {}", bad.join(", "));
}

fn silu(v: f32) -> f64 {
    let v = f64::from(v);
    v / (1.0 + (-v).exp())
}

/// Returns deterministic values in -scale..scale.
fn random(seed: u64, len: usize, scale: f32) -> Vec<f32> {
    let values = Values(seed).take(len, f64::from(scale), Dtype::Float32);
    values.into_iter().map(|value| value as f32).collect()
}

/// Numbers of rows and their widths: near multiples of a vector, and enough work for several
/// threads.
fn sizes() -> impl Strategy<Value = (usize, usize)> {
    prop_oneof![(1..5usize, 1..140usize), Just((3, 4099)), Just((170, 130))]
}

fn scale() -> impl Strategy<Value = f32> {
    prop_oneof![Just(1.0f32), Just(90.0), Just(1e-3)]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..Default::default() })]

    #[test]
    fn swiglu_is_the_gate_times_up(
        (b, m) in sizes(),
        scale in scale(),
        seed in any::<u64>(),
    ) {
        let _alone = alone();
        let gate_up = random(seed, b * 2 * m, scale);
        let row = |row: &[f32]| {
            let (gate, up) = row.split_at(m);
            gate.iter().zip(up).map(|(&g, &u)| silu(g) * f64::from(u)).collect::<Vec<_>>()
        };
        let expected: Vec<f64> = gate_up.chunks(2 * m).flat_map(row).collect();
        with_every_instruction_set(|name| {
            let out = cpu::swiglu(&array(&gate_up, &[b, 1, 2 * m])).unwrap();
            assert_eq!(out.shape(), [b as i32, 1, m as i32]);
            assert_close(name, &values(&out), &expected, m);
        });
    }

    #[test]
    fn norms_are_of_the_returned_sum(
        (b, d) in sizes(),
        scale in scale(),
        epsilon in prop_oneof![Just(1e-5f32), Just(0.5)],
        seed in any::<u64>(),
    ) {
        let _alone = alone();
        let (x, y) = (random(seed, b * d, scale), random(!seed, b * d, scale));
        let weight = random(seed ^ 1, d, 2.0);
        let norm = |row: &[f32]| {
            let squares = row.iter().map(|&v| f64::from(v) * f64::from(v)).sum::<f64>();
            let scale = 1.0 / (squares / d as f64 + f64::from(epsilon)).sqrt();
            row.iter().zip(&weight).map(|(&v, &w)| f64::from(v) * scale * f64::from(w)).collect()
        };
        let all = |rows: &[f32]| rows.chunks(d).flat_map::<Vec<f64>, _>(norm).collect::<Vec<_>>();
        let sums: Vec<f32> = x.iter().zip(&y).map(|(x, y)| x + y).collect();
        let (x, y) = (array(&x, &[b, 1, d]), array(&y, &[b, 1, d]));
        let weight = array(&weight, &[d]);
        with_every_instruction_set(|name| {
            let (sum, normed) = cpu::add_rms_norm(&x, &y, &weight, epsilon).unwrap();
            assert!(values(&sum) == sums, "{name}: sums");
            assert_eq!(normed.shape(), x.shape());
            let normed = values(&normed);
            assert_close(name, &normed, &all(&sums), d);
            // The norm alone must give the same bits.
            assert!(values(&cpu::rms_norm(&sum, &weight, epsilon).unwrap()) == normed);
        });
    }
}

#[test]
fn threads_do_not_change_a_bit() {
    let _alone = alone();
    let wave = |len: usize| (0..len).map(|i| (i as f32 * 0.37).sin() * 9.0).collect::<Vec<_>>();
    let (x, weight) = (array(&wave(300 * 202), &[300, 202]), array(&wave(202), &[202]));
    let before = cpu::threads();
    let run = |threads| {
        cpu::set_threads(threads);
        let (sum, normed) = cpu::add_rms_norm(&x, &x, &weight, 1e-5).unwrap();
        [values(&sum), values(&normed), values(&cpu::swiglu(&x).unwrap())]
    };
    let one = run(1);
    assert!([2, 3, 7].into_iter().all(|threads| run(threads) == one));
    cpu::set_threads(before);
}

#[test]
fn extremes_saturate() {
    let _alone = alone();
    // silu of a large negative gate is 0, of a large positive one the gate, of NaN NaN.
    let gates = [-1e30f32, -200.0, -90.0, 0.0, 90.0, 1e30, f32::NAN];
    let gate_up: Vec<f32> = gates.into_iter().chain([1.0; 7]).collect();
    with_every_instruction_set(|name| {
        let out = values(&cpu::swiglu(&array(&gate_up, &[14])).unwrap());
        assert!(out[0] == 0.0 && out[1].abs() < 1e-38 && out[2].abs() < 1e-36, "{name}: {out:?}");
        assert!(out[3..6] == [0.0, 90.0, 1e30] && out[6].is_nan(), "{name}: {out:?}");
    });
}

#[test]
fn wrong_shapes_and_dtypes_are_named() {
    let x = array(&[1.0; 6], &[2, 3]);
    let odd = cpu::swiglu(&x).unwrap_err().to_string();
    assert!(odd.contains("found [2, 3] Float32, expected (.., 2m) Float32"), "{odd}");
    let short = cpu::add_rms_norm(&x, &x, &array(&[1.0; 2], &[2]), 1e-5).unwrap_err().to_string();
    assert!(short.contains("x is [2, 3] Float32") && short.contains("found [2]"), "{short}");
    let half = x.as_dtype(Dtype::Float16).unwrap();
    let dtype = cpu::add_rms_norm(&x, &half, &array(&[1.0; 3], &[3]), 1e-5).unwrap_err();
    assert!(dtype.to_string().contains("y is [2, 3] Float16, expected [2, 3] Float32"), "{dtype}");
}
