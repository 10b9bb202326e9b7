//! Gradients of the CPU kernels, compared with those of MLX's operations with every instruction set
//! of this machine, and finite where numbers are large.

#![allow(non_snake_case, clippy::unwrap_used, clippy::panic)]

mod settings;
mod support;

use mlx_llamba_kernels::check::compared;
use mlx_llamba_kernels::{
    Backend, CrossEntropyOptions, Kernels, MixerInput, MixerState, MixerWeights, Weight, cpu,
};
use mlx_rs::error::Result;
use mlx_rs::ops::{split_at_indices, sum};
use mlx_rs::transforms::value_and_grad_with_argnums;
use mlx_rs::{Array, Dtype};
use settings::{alone, with_every_instruction_set};
use support::{Case, Data, Values, array, assert_close, scale_of, state, values, weights};

/// Largest difference relative to the largest value, of two float32 results with as many roundings.
const TOLERANCE: f64 = 5e-6;

fn random(seed: u64, shape: &[usize], scale: f64) -> Array {
    let len = shape.iter().product();
    array(Dtype::Float32, shape, &Values(seed).take(len, scale, Dtype::Float32))
}

/// Returns the value and the gradients of a weighted sum of all outputs of `f`.
fn gradients(inputs: &[Array], f: impl Fn(&[Array]) -> Result<Vec<Array>>) -> Vec<Vec<f64>> {
    let loss = |inputs: &[Array]| -> Result<Vec<Array>> {
        let mut total = Array::from_f32(0.0);
        for (i, out) in f(inputs)?.iter().enumerate() {
            let shape: Vec<usize> = out.shape().iter().map(|&size| size as usize).collect();
            total = total.add(sum(out.multiply(random(100 + i as u64, &shape, 1.0))?, None)?)?;
        }
        Ok(vec![total])
    };
    let all: Vec<i32> = (0..inputs.len() as i32).collect();
    let (value, gradients) = value_and_grad_with_argnums(loss, &all[..])(inputs).unwrap();
    value.iter().chain(&gradients).map(values).collect()
}

fn compare(what: &str, found: &[Vec<f64>], expected: &[Vec<f64>]) {
    assert_eq!(found.len(), expected.len());
    for (i, (found, expected)) in found.iter().zip(expected).enumerate() {
        let what = format!("{what}: gradient {i} (0 is the value)");
        // The value is a sum of up to 22100 terms, which MLX adds one by one.
        let tolerance = if i == 0 { 20.0 * TOLERANCE } else { TOLERANCE };
        assert_close(&what, found, expected, tolerance * scale_of(expected));
    }
}

/// Near multiples of a vector, and enough work for several threads.
const SIZES: [(usize, usize); 6] = [(1, 1), (3, 5), (2, 16), (5, 33), (2, 4099), (170, 130)];

#[test]
fn elementwise_gradients_are_those_of_mlx() {
    let _alone = alone();
    for (b, m) in SIZES {
        for scale in [1.0, 90.0] {
            let gate_up = [random(1, &[b, 2 * m], scale)];
            let norm = [random(2, &[b, m], scale), random(3, &[b, m], 1.0), random(4, &[m], 1.0)];
            let on = |backend: Backend| {
                [
                    gradients(&gate_up, |x| Ok(vec![backend.swiglu(&x[0])?])),
                    gradients(&norm, |x| {
                        let (sum, normed) = backend.add_rms_norm(&x[0], &x[1], &x[2], 1e-5)?;
                        Ok(vec![sum, normed])
                    }),
                    // Only one of the outputs is used.
                    gradients(&norm, |x| {
                        Ok(vec![backend.add_rms_norm(&x[0], &x[1], &x[2], 1e-5)?.0])
                    }),
                    gradients(&norm, |x| {
                        Ok(vec![backend.add_rms_norm(&x[0], &x[1], &x[2], 1e-5)?.1])
                    }),
                    gradients(&[norm[0].clone(), norm[2].clone()], |x| {
                        Ok(vec![backend.rms_norm(&x[0], &x[1], 1e-5)?])
                    }),
                ]
            };
            let expected = on(Backend::PLAIN);
            with_every_instruction_set(|name| {
                for (i, (found, expected)) in
                    on(Backend::CPU.differentiable()).iter().zip(&expected).enumerate()
                {
                    compare(&format!("operation {i} of {b} x {m}, {name}"), found, expected);
                }
                let x = [random(5, &[b, m], scale.min(10.0))];
                let exp = gradients(&x, |x| Ok(vec![cpu::exp(&x[0])?]));
                compare("exp", &exp, &gradients(&x, |x| Ok(vec![x[0].exp()?])));
                let two = [random(6, &[b, m], scale), random(7, &[b, m], 1.0)];
                let gate = gradients(&two, |x| Ok(vec![cpu::gate(&x[0], &x[1])?]));
                let silu = |x: &Array| x.multiply(mlx_rs::ops::sigmoid(x)?);
                let expected = gradients(&two, |x| Ok(vec![silu(&x[0])?.multiply(&x[1])?]));
                compare("gate", &gate, &expected);
            });
        }
    }
}

#[test]
fn views_are_read_in_their_own_order() {
    let _alone = alone();
    let x = [random(8, &[6, 10], 1.0), random(9, &[5], 1.0)];
    let on = |backend: Backend| {
        gradients(&x, |x| {
            let y = x[0].t(); // (10, 6)
            let parts = split_at_indices(&x[0], &[5], 1)?; // (6, 5) twice
            let (sum, normed) = backend.add_rms_norm(&parts[0], &parts[1], &x[1], 1e-5)?;
            Ok(vec![backend.swiglu(&y)?, sum.t(), normed])
        })
    };
    compare("views", &on(Backend::CPU.differentiable()), &on(Backend::PLAIN));
}

/// The gradients of a mixer's output and states by its rows, both states and all weights.
fn mixer(backend: Backend, case: &Case, data: &Data) -> Vec<Vec<f64>> {
    let (dims, b, l) = (case.dims, case.lengths.len(), case.l);
    let flags = case.start_flags();
    let starts = flags.map(|flags| Array::from_slice(&flags, &[b as i32, l as i32]));
    let (state, weights) = (state(case, data), weights(case, data));
    let inputs = [
        array(Dtype::Float32, &[b, l, dims.in_proj_dim()], &data.rows),
        state.conv,
        state.ssm,
        weights.conv_weight,
        weights.conv_bias.unwrap(),
        weights.z_bias.unwrap(),
        weights.D,
    ];
    gradients(&inputs, |x| {
        let input = MixerInput { starts: starts.as_ref(), ..MixerInput::new(&x[0]) };
        let state = MixerState { conv: x[1].clone(), ssm: x[2].clone() };
        let weights = MixerWeights {
            conv_weight: x[3].clone(),
            conv_bias: Some(x[4].clone()),
            z_bias: Some(x[5].clone()),
            D: x[6].clone(),
        };
        let mixed = backend.mixer(&input, &state, &weights, dims, case.activation).unwrap();
        let T = backend.mixing_matrix(&input, &weights, dims, case.activation).unwrap();
        Ok(vec![mixed.y, mixed.state.conv, mixed.state.ssm, T])
    })
}

#[test]
fn mixers_have_the_same_gradients_and_finite_ones() {
    let starts = [(0, 0), (0, 63), (1, 64), (1, 99)];
    for A_log in [3.0, 60.0, 1e4] {
        for l in [1, 11, 100] {
            let starts: Vec<_> = starts.iter().copied().filter(|&(_, t)| t < l).collect();
            let case = Case { A_log, ..Case::new([6, 3, 5, 7, 4], 2, l).starts(&starts) };
            let data = Data::new(&case);
            let (found, expected) = (
                mixer(Backend::CPU.differentiable(), &case, &data),
                mixer(Backend::PLAIN, &case, &data),
            );
            assert!(found.iter().flatten().all(|value| value.is_finite()), "{case:?}");
            compare(&format!("{case:?}"), &found, &expected);
        }
    }
}

#[test]
fn tokens_before_a_start_have_no_gradient_from_later_ones() {
    let case = Case::new([6, 3, 5, 7, 4], 1, 80).starts(&[(0, 70)]);
    let (dims, data) = (case.dims, Data::new(&case));
    let (state, weights) = (state(&case, &data), weights(&case, &data));
    let starts = Array::from_slice(&case.start_flags().unwrap(), &[1, 80]);
    let inputs = [
        array(Dtype::Float32, &[1, 80, dims.in_proj_dim()], &data.rows),
        state.conv.clone(),
        state.ssm.clone(),
    ];
    let found = gradients(&inputs, |x| {
        let input = MixerInput { starts: Some(&starts), ..MixerInput::new(&x[0]) };
        let state = MixerState { conv: x[1].clone(), ssm: x[2].clone() };
        let mixed = Backend::CPU
            .differentiable()
            .mixer(&input, &state, &weights, dims, case.activation)
            .unwrap();
        let after = split_at_indices(&mixed.y, &[70], 1)?.swap_remove(1);
        Ok(vec![after, mixed.state.ssm, mixed.state.conv])
    });
    let (before, after) = found[1].split_at(70 * dims.in_proj_dim());
    assert!(before.iter().chain(&found[2]).chain(&found[3]).all(|g| *g == 0.0));
    assert!(after.iter().filter(|g| **g != 0.0).count() > after.len() / 2);
}

#[test]
fn logits_are_compared_as_in_float64() {
    let _alone = alone();
    for (m, v, scale) in [(1, 1, 1.0), (3, 7, 1.0), (5, 33, 30.0), (2, 4099, 3.0), (40, 130, 90.0)]
    {
        let (s, t) = (random(1, &[m, v], scale), random(2, &[m, v], scale));
        for (temperature, teacher_weight, next_weight, taught) in [
            (1.0, 0.0, 1.0, false),
            (1.0, 1.0, 0.0, true),
            (1.0, 0.7, 0.3, true),
            (2.5, 0.7, 0.3, true),
            (0.5, 2.0, 0.0, true),
        ] {
            let how = CrossEntropyOptions { temperature, teacher_weight, next_weight };
            let teacher = taught.then_some(&t);
            let t64 = values(&t);
            let (gradient, sums) = compared(&values(&s), taught.then_some(&t64[..]), v, how);
            // A sum is as exact as its terms, which may be larger than the sum; MLX adds v of them.
            let terms = m as f64 * f64::max(scale / f64::from(temperature), 10.0);
            let check = |backend: Backend, name: &str, tolerance: f64| {
                let what = format!("{name}, {m} x {v} at {scale}, {how:?}");
                let found = backend.cross_entropy(&s, teacher, how).unwrap();
                assert_close(&what, &values(&found.gradient), &gradient, 1e-6);
                let found = [found.cross_entropy, found.kl, found.log_sum];
                let found: Vec<f64> = found.iter().flat_map(values).collect();
                assert_close(&what, &found, &sums, tolerance * terms);
            };
            check(Backend::PLAIN, "plain", 1e-5);
            with_every_instruction_set(|name| check(Backend::CPU.differentiable(), name, 1e-6));
        }
    }
}

#[test]
fn rounded_products_have_gradients_in_float32() {
    let x = [random(1, &[2, 3, 8], 1.0), random(2, &[5, 8], 1.0)];
    let backend = Backend::PLAIN.with_products(Dtype::Bfloat16);
    assert_ne!(backend, Backend::PLAIN);
    assert_eq!(backend.without(Kernels::NONE), backend);
    assert_eq!(Backend::PLAIN.with_products(Dtype::Float32), Backend::PLAIN);
    let on = |backend: Backend, x: &[Array]| {
        gradients(x, |x| Ok(vec![backend.matmul(&x[0], &Weight::Dense(x[1].clone())).unwrap()]))
    };
    let (found, exact) = (on(backend, &x), on(Backend::PLAIN, &x));
    // The CPU kernels take float32 alone.
    let of_cpu = on(Backend::CPU.differentiable().with_products(Dtype::Bfloat16), &x);
    assert_eq!(of_cpu, found);
    assert_ne!(found, exact);
    for (found, exact) in found.iter().zip(&exact) {
        assert_close("rounded", found, exact, 2e-2 * scale_of(exact));
    }
    let y = backend.matmul(&x[0], &Weight::Dense(x[1].clone())).unwrap();
    assert_eq!(y.dtype(), Dtype::Float32);
    let again = y.as_dtype(Dtype::Bfloat16).unwrap();
    assert_eq!(values(&y), values(&again), "results are rounded");
}
