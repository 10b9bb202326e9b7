//! The kernels of training under the emulator, compared with float64 loops and differences of those: the
//! mixer and the gate with all their gradients, AdamW, and cross entropy.

#![allow(non_snake_case, clippy::unwrap_used, clippy::panic)]

mod emulated;
mod support;

use emulated::{buffer, run_launch};
use mlx_llamba_kernels::check::compared;
use mlx_llamba_kernels::gpu::{
    ChooseRecurrence, Launch, Part, RecurrenceCall, Run, adamw, adamw_launch,
    add_rms_norm_with_gradient, cross_entropy, cross_entropy_launch, distance_launches,
    masked_softmax_launch, mixer_with_gradients, recurrence_launch, rms_norm_with_gradient,
    rope_launch, squares_launch, sum_of_squares, swiglu_with_gradient, training_backend,
};
use mlx_llamba_kernels::oracle::{State, Weights, mixer};
use mlx_llamba_kernels::{
    Activation, AdamWResult, AdamWStep, Backend, CrossEntropyOptions, Dims, MixerInput, MixerState,
    MixerWeights, Weight,
};
use mlx_rs::error::Result;
use mlx_rs::ops::{concatenate, split_at_indices, sum};
use mlx_rs::transforms::value_and_grad_with_argnums;
use mlx_rs::{Array, Dtype};
use support::{Case, Data, Values, array, assert_close, scale_of, values};

/// Largest error relative to the largest value. Measured 6e-7.
const TOLERANCE: f64 = 2e-6;

/// Runs a launch under the emulator.
fn emulate(launch: &Launch, inputs: &[&Array]) -> Result<Vec<Array>> {
    let sizes = |array: &Array| array.shape().iter().map(|&s| s as usize).collect::<Vec<_>>();
    let buffers: Vec<_> =
        inputs.iter().map(|input| buffer(input.dtype(), &sizes(input), &values(input))).collect();
    let (outputs, _) = run_launch(launch, &buffers);
    let outputs = launch.outputs.iter().zip(&outputs).map(|(of, output)| {
        let shape: Vec<usize> = of.shape.iter().map(|&s| s as usize).collect();
        array(of.dtype, &shape, &output.to_f64())
    });
    Ok(outputs.collect())
}

/// The arrays of a mixer in float64, row-major, in this order: rows, the two states, conv_weight, D,
/// conv_bias, z_bias.
type Numbers = [Vec<f64>; 7];

/// The weighted sums of y and the states after the last token are the loss.
struct Loss<'a> {
    case: &'a Case,
    numbers: Numbers,
    /// The weights of y and the two states.
    by: [Vec<f64>; 3],
}

impl<'a> Loss<'a> {
    fn new(case: &'a Case) -> Self {
        let data = Data::new(case);
        let all = |of: fn(&State) -> &Vec<f64>| data.states.iter().flat_map(of).copied().collect();
        let (conv, ssm): (Vec<_>, Vec<_>) = (all(|state| &state.conv), all(|state| &state.ssm));
        let Weights { conv_weight, conv_bias, z_bias, D } = data.weights;
        let y = case.lengths.len() * case.l * case.dims.d_inner();
        let by = [(31, y), (32, conv.len()), (33, ssm.len())]
            .map(|(seed, count)| Values(seed).take(count, 1.0, Dtype::Float32));
        Self { case, numbers: [data.rows, conv, ssm, conv_weight, D, conv_bias, z_bias], by }
    }

    /// The loss by the oracle's loops.
    fn value(&self, [rows, conv, ssm, conv_weight, D, conv_bias, z_bias]: &Numbers) -> f64 {
        let Case { dims, activation, .. } = *self.case;
        let b = self.case.lengths.len();
        let weights = Weights {
            conv_weight: conv_weight.clone(),
            conv_bias: conv_bias.clone(),
            z_bias: z_bias.clone(),
            D: D.clone(),
        };
        let starts = self.case.start_flags();
        let mut total = 0.0;
        for i in 0..b {
            let of = |all: &[f64]| all[i * all.len() / b..(i + 1) * all.len() / b].to_vec();
            let mut state = State { conv: of(conv), ssm: of(ssm) };
            let starts = starts.as_ref().map(|all| &all[i * self.case.l..(i + 1) * self.case.l]);
            let y = mixer(&of(rows), starts, &mut state, &weights, dims, activation);
            for (found, by) in [&y, &state.conv, &state.ssm].into_iter().zip(&self.by) {
                total += found.iter().zip(of(by)).map(|(a, b)| a * b).sum::<f64>();
            }
        }
        total
    }

    /// The derivative by one number: the value is smooth, so that a central difference is exact to 1e-8.
    fn derivative(&self, array: usize, at: usize) -> f64 {
        let step = 1e-4;
        let at = |by: f64| {
            let mut numbers = self.numbers.clone();
            numbers[array][at] += by;
            self.value(&numbers)
        };
        (at(step) - at(-step)) / (2.0 * step)
    }

    /// The loss and its gradients by the kernels.
    fn found(&self) -> (f64, Vec<Vec<f64>>) {
        let case = self.case;
        let (b, l, dims, width) = (case.lengths.len(), case.l, case.dims, case.dims.in_proj_dim());
        let Dims { h, p, n, k, .. } = dims;
        let shapes: [&[usize]; 7] = [
            &[b, l, width],
            &[b, k - 1, dims.conv_dim()],
            &[b, h, p, n],
            &[dims.conv_dim(), k],
            &[h],
            &[dims.conv_dim()],
            &[dims.d_inner()],
        ];
        let make = |(shape, of): (&&[usize], &Vec<f64>)| array(case.dtype, shape, of);
        let mut arrays: Vec<Array> = shapes.iter().zip(&self.numbers).map(make).collect();
        arrays[2] = arrays[2].as_dtype(Dtype::Float32).unwrap();
        let starts =
            case.start_flags().map(|flags| Array::from_slice(&flags, &[b as i32, l as i32]));
        let loss = |x: &[Array]| -> Result<Vec<Array>> {
            let parts = split_at_indices(&x[0], &[(width - h) as i32], -1)?;
            // Rows may end with padding, whatever it holds.
            let padding = array(case.dtype, &[b, l, 11], &vec![9.0; b * l * 11]);
            let padded = concatenate(&[&x[0], &padding], -1)?;
            let input = MixerInput {
                rows: if case.split_A_log { &parts[0] } else { &padded },
                A_log: case.split_A_log.then_some(&parts[1]),
                lengths: None,
                starts: starts.as_ref(),
            };
            let state = MixerState { conv: x[1].clone(), ssm: x[2].clone() };
            let weights = MixerWeights {
                conv_weight: x[3].clone(),
                D: x[4].clone(),
                conv_bias: case.conv_bias.then(|| x[5].clone()),
                z_bias: case.z_bias.then(|| x[6].clone()),
            };
            let how = (emulate as Run, recurrence_launch as ChooseRecurrence);
            let mixed =
                mixer_with_gradients(how, &input, &state, &weights, dims, case.activation).unwrap();
            let mut total = Array::from_f32(0.0);
            let parts = [&mixed.y, &mixed.state.conv, &mixed.state.ssm];
            for (part, by) in parts.into_iter().zip(&self.by) {
                let shape: Vec<usize> = part.shape().iter().map(|&s| s as usize).collect();
                let by = array(Dtype::Float32, &shape, by);
                total = total.add(sum(part.multiply(by)?, None)?)?;
            }
            Ok(vec![total])
        };
        let places: Vec<i32> = (0..7).collect();
        let (value, gradients) = value_and_grad_with_argnums(loss, &places[..])(&arrays).unwrap();
        (values(&value[0])[0], gradients.iter().map(values).collect())
    }
}

#[test]
fn outputs_and_gradients_equal_the_loops() {
    let silu = Activation::Silu;
    let cases = [
        Case::new([6, 3, 5, 7, 4], 2, 70).starts(&[(0, 0), (0, 16), (0, 33), (1, 63), (1, 64)]),
        Case {
            activation: silu,
            split_A_log: true,
            z_bias: false,
            ..Case::new([4, 2, 3, 6, 6], 2, 33).starts(&[(0, 3), (1, 31)])
        },
        Case { conv_bias: false, A_log: 60.0, ..Case::new([2, 1, 18, 12, 2], 1, 16) },
    ];
    for case in &cases {
        let mut loss = Loss::new(case);
        if !case.conv_bias {
            loss.numbers[5].fill(0.0);
        }
        if !case.z_bias {
            loss.numbers[6].fill(0.0);
        }
        let (value, gradients) = loss.found();
        let expected = loss.value(&loss.numbers);
        assert!((value - expected).abs() < 1e-4 * expected.abs().max(1.0), "{value} {expected}");
        let mut choice = Values(5);
        for (i, found) in gradients.iter().enumerate() {
            if (i == 5 && !case.conv_bias) || (i == 6 && !case.z_bias) {
                assert!(found.iter().all(|&d| d == 0.0), "there is no such array");
                continue;
            }
            let count = found.len().min(100);
            let places: Vec<usize> = match count < found.len() {
                false => (0..count).collect(),
                true => choice
                    .take(count, 1.0, Dtype::Float32)
                    .iter()
                    .map(|v| (v.abs() * found.len() as f64) as usize % found.len())
                    .collect(),
            };
            let expected: Vec<f64> = places.iter().map(|&at| loss.derivative(i, at)).collect();
            let found: Vec<f64> = places.iter().map(|&at| found[at]).collect();
            let what = format!("gradient {i} of {case:?}");
            assert!(scale_of(&expected) > 0.1, "{what}: {}", scale_of(&expected));
            assert_close(&what, &found, &expected, TOLERANCE * scale_of(&expected).max(1.0));
        }
    }
}

#[test]
fn a_masked_softmax_equals_its_definition() {
    for (b, masks, [h, l, t]) in [(2, 2, [3, 5, 70]), (3, 1, [1, 2, 31])] {
        let shape = [b, h, l, t];
        let x = Values(3).take(b * h * l * t, 30.0, Dtype::Float32);
        let seen =
            |batch: usize, q: usize, k: usize| k == q || (k * 7 + q + batch).is_multiple_of(3);
        let places = (0..masks * l * t).map(|i| seen(i / (l * t), i / t % l, i % t));
        let mask: Vec<bool> = places.collect();
        let mask = Array::from_slice(&mask, &[masks, 1, l, t].map(|size| size as i32));
        let scores = array(Dtype::Float32, &shape, &x);
        let of_mask = (mask.shape(), mask.dtype());
        let launch = masked_softmax_launch(scores.shape(), scores.dtype(), of_mask).unwrap();
        let found = values(&emulate(&launch, &[&scores, &mask]).unwrap()[0]);
        for (row, (found, x)) in found.chunks(t).zip(x.chunks(t)).enumerate() {
            let (batch, q) = (row / (h * l) % masks, row % l);
            let e = |k: usize| if seen(batch, q, k) { x[k].exp() } else { 0.0 };
            let sum: f64 = (0..t).map(e).sum();
            let expected: Vec<f64> = (0..t).map(|k| e(k) / sum).collect();
            assert_close("softmax", found, &expected, 2e-6);
        }
        let other = [masks as i32, 1, l as i32, t as i32 + 1];
        assert!(
            masked_softmax_launch(scores.shape(), scores.dtype(), (&other, of_mask.1)).is_err()
        );
    }
}

#[test]
fn distances_and_their_gradients_equal_their_definition() {
    let (float, half) = (Dtype::Float32, Dtype::Bfloat16);
    for ([rows, d], dtypes, tolerance) in [
        ([5, 7], [float; 3], 1e-5),
        ([19, 132], [float, half, half], 1e-2),
        ([3, 576], [half; 3], 1e-2),
    ] {
        let mut numbers: [Vec<f64>; 3] =
            [1, 2, 3].map(|seed| Values(seed).take(rows * d, 1.0, dtypes[seed as usize - 1]));
        // A row at its target.
        for (of, value) in numbers.iter_mut().zip([0.5, 0.25, 0.75]) {
            of[..d].fill(value);
        }
        let by = Values(4).take(rows, 1.0, float);
        let weights = array(float, &[rows], &by);
        let arrays: Vec<Array> =
            (numbers.iter().zip(dtypes)).map(|(of, dtype)| array(dtype, &[rows, d], of)).collect();
        let expected: Vec<f64> = (0..rows)
            .map(|row| {
                let square = |i: usize| (numbers[0][i] + numbers[1][i] - numbers[2][i]).powi(2);
                (row * d..(row + 1) * d).map(square).sum::<f64>().sqrt()
            })
            .collect();
        let slopes: Vec<f64> = (0..rows * d)
            .map(|i| {
                let v = numbers[0][i] + numbers[1][i] - numbers[2][i];
                by[i / d] * v / expected[i / d].max(1e-30)
            })
            .collect();
        let backends = [training_backend(emulate, recurrence_launch), Backend::PLAIN];
        for backend in backends {
            let loss = |x: &[Array]| -> Result<Vec<Array>> {
                let norms = backend.distances(&x[0], &x[1], &arrays[2])?;
                assert_close("norms", &values(&norms), &expected, 1e-5);
                Ok(vec![sum(norms.multiply(&weights)?, None)?])
            };
            let (_, found) = value_and_grad_with_argnums(loss, &[0, 1][..])(&arrays[..2]).unwrap();
            for (found, of) in found.iter().zip(&arrays) {
                assert_eq!(found.dtype(), of.dtype());
                assert_close("slopes", &values(found), &slopes, tolerance);
            }
        }
    }
    assert!(distance_launches([0, 4], [float; 3]).is_err());
    assert!(distance_launches([4, 0], [float; 3]).is_err());
}

#[test]
fn heads_turn_to_their_positions() {
    for ([b, l, heads, k], turned, dtype) in
        [([2, 5, 3, 8], 8, Dtype::Float32), ([1, 70, 2, 6], 4, Dtype::Bfloat16)]
    {
        let shape = [b, l, heads, k];
        let x = Values(3).take(b * l * heads * k, 2.0, dtype);
        let wavelengths: Vec<f64> = (0..turned / 2).map(|i| 1.5f64 * f64::from(1 << i)).collect();
        let arrays = [array(dtype, &shape, &x), array(Dtype::Float32, &[turned / 2], &wavelengths)];
        let launch = rope_launch(arrays[0].shape(), dtype, turned as i32).unwrap();
        let found = emulate(&launch, &[&arrays[0], &arrays[1]]).unwrap();
        let mut expected = x.clone();
        for (head, out) in expected.chunks_mut(k).enumerate() {
            let x = &x[head * k..][..k];
            for i in 0..turned / 2 {
                let (s, c) = ((head / heads % l) as f64 / wavelengths[i]).sin_cos();
                let (a, b) = (x[i], x[i + turned / 2]);
                (out[i], out[i + turned / 2]) = (a * c - b * s, a * s + b * c);
            }
        }
        let tolerance = if dtype == Dtype::Float32 { 2e-6 } else { 2e-2 };
        assert_close("turned", &values(&found[0]), &expected, tolerance);
        let plain = Backend::PLAIN.rope(&arrays[0], turned as i32, &arrays[1]).unwrap();
        assert_close("plain", &values(&plain), &expected, tolerance);
        assert!(rope_launch(arrays[0].shape(), dtype, k as i32 + 2).is_err());
    }
}

#[test]
fn a_gate_has_its_gradient() {
    for (rows, width) in [(3, 24), (2, 7)] {
        let [x, by] = [1, 2].map(|seed| Values(seed).take(rows * 2 * width, 3.0, Dtype::Float32));
        let by = &by[..rows * width];
        let gate_up = array(Dtype::Float32, &[rows, 2 * width], &x);
        let weights = array(Dtype::Float32, &[rows, width], by);
        let loss = |x: &[Array]| -> Result<Vec<Array>> {
            let y = swiglu_with_gradient(emulate, &x[0]).unwrap();
            Ok(vec![sum(y.multiply(&weights)?, None)?])
        };
        let (_, found) = value_and_grad_with_argnums(loss, &[0][..])(&[gate_up]).unwrap();
        let mut expected = vec![0.0; x.len()];
        for (i, by) in by.iter().enumerate() {
            let at = i / width * 2 * width + i % width;
            let (gate, up) = (x[at], x[at + width]);
            let s = 1.0 / (1.0 + (-gate).exp());
            expected[at] = by * up * s * (1.0 + gate * (1.0 - s));
            expected[at + width] = by * gate * s;
        }
        assert_close("gradient", &values(&found[0]), &expected, 1e-5);
    }
}

#[test]
fn the_gradients_of_a_norm_equal_their_definition() {
    let (float, half) = (Dtype::Float32, Dtype::Bfloat16);
    // Columns that one simdgroup has, in reads of one; that three have; rows that do not fill the last part.
    for (rows, d, dtype, narrow) in [
        (19, 7, float, float),
        (33, 576, float, float),
        (16, 260, half, half),
        (18, 132, float, half),
    ] {
        for residual in [false, true] {
            norm_with_gradients([rows, d], dtype, narrow, residual);
        }
    }
}

/// Compares the norm of x, or of x + y, and the gradients of its weighted sum, and of that of x + y, with float64.
fn norm_with_gradients([rows, d]: [usize; 2], dtype: Dtype, narrow: Dtype, residual: bool) {
    let [x, y, weight, by, by_sum] = [
        (1, rows * d, dtype),
        (4, rows * d, narrow),
        (2, d, dtype),
        (3, rows * d, narrow),
        (5, rows * d, dtype),
    ]
    .map(|(seed, count, dtype)| Values(seed).take(count, 1.0, dtype));
    let epsilon = 1e-2;
    let shape = [rows, d];
    let arrays = [array(dtype, &shape, &x), array(dtype, &[d], &weight), array(narrow, &shape, &y)];
    let (weights, weights_sum) = (array(narrow, &shape, &by), array(dtype, &shape, &by_sum));
    let loss = |x: &[Array]| -> Result<Vec<Array>> {
        let total = |array: &Array, by: &Array| {
            assert_eq!(array.dtype(), by.dtype());
            sum(array.multiply(by)?.as_dtype(Dtype::Float32)?, None)
        };
        if !residual {
            let normed = rms_norm_with_gradient(emulate, &x[0], &x[1], epsilon, narrow).unwrap();
            return Ok(vec![total(&normed, &weights)?]);
        }
        let pair = [&x[0], &x[2]];
        let (sum, normed) =
            add_rms_norm_with_gradient(emulate, pair, &x[1], epsilon, narrow).unwrap();
        Ok(vec![total(&normed, &weights)?.add(total(&sum, &weights_sum)?)?])
    };
    let places = if residual { &[0, 1, 2][..] } else { &[0, 1][..] };
    let (value, found) = value_and_grad_with_argnums(loss, places)(&arrays).unwrap();
    let (mut by_x, mut by_weight, mut expected) = (vec![0.0; rows * d], vec![0.0; d], 0.0);
    for row in 0..rows {
        let of = |i: usize| x[row * d + i] + if residual { y[row * d + i] } else { 0.0 };
        let by = &by[row * d..][..d];
        let square: f64 = (0..d).map(|i| of(i).powi(2)).sum();
        let s = 1.0 / (square / d as f64 + f64::from(epsilon)).sqrt();
        let mean = (0..d).map(|i| of(i) * by[i] * weight[i]).sum::<f64>() / d as f64;
        for i in 0..d {
            by_x[row * d + i] = s * by[i] * weight[i] - s.powi(3) * mean * of(i);
            by_weight[i] += by[i] * of(i) * s;
            expected += by[i] * of(i) * s * weight[i];
            if residual {
                by_x[row * d + i] += by_sum[row * d + i];
                expected += by_sum[row * d + i] * of(i);
            }
        }
    }
    let what = format!("{dtype:?} {narrow:?} {residual}");
    let tolerance = if dtype == Dtype::Float32 { 1e-5 } else { 4e-2 };
    let rounded = if narrow == Dtype::Float32 { 1e-5 } else { 4e-2 };
    assert_close(&what, &values(&value[0]), &[expected], rounded * (rows * d) as f64);
    assert_close(&what, &values(&found[0]), &by_x, tolerance);
    assert_close(&what, &values(&found[1]), &by_weight, tolerance);
    if residual {
        assert_eq!(found[2].dtype(), narrow);
        assert_close(&what, &values(&found[2]), &by_x, rounded);
    }
}

/// The loss of a block, and its gradients with respect to the residual stream and the weights.
fn block(backend: Backend, arrays: &[Array], dims: Dims) -> Vec<Vec<f64>> {
    let (b, l, d) = (arrays[0].dim(0), arrays[0].dim(1), arrays[0].dim(2));
    let loss = |x: &[Array]| -> Result<Vec<Array>> {
        let product =
            |u: &Array, i: usize| backend.matmul(u, &Weight::Dense(x[i].clone())).unwrap();
        let u = backend.rms_norm(&x[0], &x[1], 1e-5)?;
        let (rows, A_log) = (product(&u, 2), product(&u, 3));
        let input = MixerInput { A_log: Some(&A_log), ..MixerInput::new(&rows) };
        let state = MixerState::zeros(b as usize, dims, Dtype::Float32)?;
        let weights = MixerWeights {
            conv_weight: x[4].clone(),
            D: x[5].clone(),
            conv_bias: None,
            z_bias: Some(x[6].clone()),
        };
        let mixed = backend.mixer(&input, &state, &weights, dims, Activation::Identity).unwrap();
        let (inside, u) = backend.add_rms_norm(&x[0], &product(&mixed.y, 7), &x[1], 1e-5)?;
        let y = product(&backend.swiglu(&product(&u, 8))?, 9);
        let (outside, u) = backend.add_rms_norm(&inside, &y, &x[1], 1e-5)?;
        assert_eq!(inside.dtype(), Dtype::Float32);
        assert_eq!(u.dtype(), backend.narrow(Dtype::Float32));
        let u = u.as_dtype(Dtype::Float32)?;
        Ok(vec![sum(outside.square()?.add(&u.multiply(&outside)?)?, None)?])
    };
    assert_eq!([b, l, d], [2, 9, 12]);
    let places: Vec<i32> = (0..10).collect();
    let (value, gradients) = value_and_grad_with_argnums(loss, &places[..])(arrays).unwrap();
    for (gradient, of) in gradients.iter().zip(arrays) {
        assert_eq!((gradient.shape(), gradient.dtype()), (of.shape(), Dtype::Float32));
    }
    value.iter().chain(&gradients).map(values).collect()
}

/// The kernels of training fit together, in float32 and with products in 16 bits.
#[test]
fn a_block_has_its_gradients() {
    let dims = Dims { h: 2, g: 1, p: 6, n: 4, k: 3 };
    let (d, inner, conv) = (12, dims.d_inner(), dims.conv_dim());
    let shapes: [&[usize]; 10] = [
        &[2, 9, d],
        &[d],
        &[conv + inner, d],
        &[2, d],
        &[conv, 3],
        &[2],
        &[inner],
        &[d, inner],
        &[16, d],
        &[d, 8],
    ];
    let arrays: Vec<Array> = (1..)
        .zip(shapes)
        .map(|(seed, shape)| {
            let of = Values(seed).take(shape.iter().product(), 0.7, Dtype::Float32);
            array(Dtype::Float32, shape, &of)
        })
        .collect();
    let expected = block(Backend::PLAIN, &arrays, dims);
    let backend = training_backend(emulate, recurrence_launch);
    for (backend, tolerance) in [(backend, 1e-5), (backend.with_products(Dtype::Bfloat16), 3e-2)] {
        for (i, (found, expected)) in
            block(backend, &arrays, dims).iter().zip(&expected).enumerate()
        {
            let what = format!("{backend:?}, gradient {i} (0 is the value)");
            assert_close(&what, found, expected, tolerance * scale_of(expected));
        }
    }
}

#[test]
fn sizes_that_do_not_fit_are_refused() {
    let call = |columns, l| RecurrenceCall {
        b: 1,
        l,
        h: 1,
        parts: [Part::whole(1, columns); 3],
        rows: 4,
        columns,
        reverse: false,
    };
    let error = recurrence_launch(&call(129, 2)).unwrap_err();
    assert_eq!(error.to_string(), "a row of 129 does not fit in registers");
    assert!(recurrence_launch(&call(128, 2)).is_ok());
    assert!(recurrence_launch(&call(8, 0)).is_err());
}

#[test]
fn adamw_equals_its_definition() {
    let shape = [3, 87];
    let [p, g, m, mut v] = [1, 2, 3, 4].map(|seed| Values(seed).take(261, 1.0, Dtype::Float32));
    v.iter_mut().for_each(|v| *v = v.abs());
    let how = AdamWStep {
        beta1: 0.75,
        beta2: 0.9375,
        root: 1.5,
        epsilon: 0.125,
        rate: 0.0625,
        kept: 0.875,
        ahead: Some(0.625),
    };
    let arrays = [&p, &g, &m, &v].map(|values| array(Dtype::Float32, &shape, values));
    let scale = Array::from_f32(0.25);
    let inputs = [&arrays[0], &arrays[1], &arrays[2], &arrays[3], &scale];
    let found = adamw(emulate, inputs, how).unwrap();
    let plain = Backend::PLAIN.adamw(inputs, how).unwrap();
    let mut expected = [vec![], vec![], vec![], vec![]];
    for i in 0..261 {
        let g = 0.25 * g[i];
        let (m, v) = (0.75 * m[i] + 0.25 * g, 0.9375 * v[i] + 0.0625 * g * g);
        let change = 0.0625 * m / (1.5 * v.sqrt() + 0.125);
        let new = [0.875 * p[i] - change, m, v, 0.625 * m + 0.375 * g];
        expected.iter_mut().zip(new).for_each(|(all, value)| all.push(value));
    }
    for (name, AdamWResult { parameter, m, v, ahead }) in [("kernel", found), ("plain", plain)] {
        for (found, expected) in [parameter, m, v, ahead.unwrap()].iter().zip(&expected) {
            assert_eq!(found.shape(), [3, 87]);
            assert_close(name, &values(found), expected, 1e-6);
        }
    }
    let without = adamw(emulate, inputs, AdamWStep { ahead: None, ..how }).unwrap();
    assert!(without.ahead.is_none());
    assert_close("without a look ahead", &values(&without.m), &expected[1], 1e-6);
    assert!(adamw_launch(0, false).is_err());
}

#[test]
fn cross_entropy_equals_its_definition() {
    let (float, half, bf16) = (Dtype::Float32, Dtype::Float16, Dtype::Bfloat16);
    for (m, v, scale, dtype, teacher) in [
        (1, 1, 1.0, float, Some(float)),
        (3, 7, 30.0, float, Some(float)),
        (2, 4099, 3.0, float, Some(bf16)),
        (5, 600, 90.0, bf16, Some(float)),
        (4, 2500, 9.0, half, Some(half)),
        (2, 700, 9.0, float, None),
    ] {
        let s = Values(1).take(m * v, scale, dtype);
        let t = Values(2).take(m * v, scale, teacher.unwrap_or(dtype));
        let logits = array(dtype, &[m, v], &s);
        let theirs = teacher.map(|of| array(of, &[m, v], &t));
        for (temperature, teacher_weight, next_weight) in
            [(1.0, 0.75, 0.25), (2.5, 0.7, 0.3), (0.5, 2.0, 0.0)]
        {
            let how = CrossEntropyOptions { temperature, teacher_weight, next_weight };
            let (gradient, sums) = compared(&s, teacher.map(|_| &t[..]), v, how);
            let found = cross_entropy(emulate, &logits, theirs.as_ref(), how).unwrap();
            let what = format!("{m} x {v} at {scale}, {dtype:?} {teacher:?}, {how:?}");
            assert_eq!(found.gradient.dtype(), dtype);
            let last_place = match dtype {
                Dtype::Float32 => 0.0,
                Dtype::Float16 => 1e-3,
                _ => 8e-3,
            };
            let found_gradient = values(&found.gradient);
            assert_eq!(found_gradient.len(), gradient.len());
            for (found, expected) in found_gradient.iter().zip(&gradient) {
                // Relative to the element itself, which may be far below 1.
                let allowed = 2e-7 + last_place * expected.abs();
                assert!((found - expected).abs() <= allowed, "{what}: {found} {expected}");
            }
            // A sum is as exact as its terms, which may be larger than the sum.
            let terms = m as f64 * f64::max(scale / f64::from(temperature), 10.0);
            let found = [found.cross_entropy, found.kl, found.log_sum];
            let found: Vec<f64> = found.iter().flat_map(values).collect();
            assert_close(&what, &found, &sums, 2e-7 * terms);
        }
    }
}

#[test]
fn logits_that_do_not_fit_a_launch_are_refused() {
    let float = Dtype::Float32;
    assert!(cross_entropy_launch([0, 5], float, None, false).is_err());
    assert!(cross_entropy_launch([5, 0], float, None, false).is_err());
    assert!(cross_entropy_launch([1 << 23, 5], float, None, false).is_err());
    assert!(cross_entropy_launch([1, 5], Dtype::Int32, None, false).is_err());
    assert!(cross_entropy_launch([1, 5], float, Some(Dtype::Int32), false).is_err());
    assert!(cross_entropy_launch([1 << 21, 128_256], float, Some(float), true).is_ok());
}

#[test]
fn squares_of_many_arrays_are_added() {
    // More arrays than a launch takes; fewer elements than a thread reads, and many threadgroups.
    let sizes: Vec<usize> = (0..19).map(|i| [1, 7, 8, 300, 9000][i % 5] + i).collect();
    let numbers: Vec<Vec<f64>> =
        (1..).zip(&sizes).map(|(i, &n)| Values(i).take(n, 2.0, Dtype::Float32)).collect();
    let arrays: Vec<Array> =
        sizes.iter().zip(&numbers).map(|(&n, of)| array(Dtype::Float32, &[n, 1], of)).collect();
    let arrays: Vec<&Array> = arrays.iter().collect();
    let expected: f64 = numbers.iter().flatten().map(|x| x * x).sum();
    let plain = Backend::PLAIN.sum_of_squares(&arrays).unwrap();
    for found in [sum_of_squares(emulate, &arrays).unwrap(), plain] {
        assert_eq!(found.shape(), [0; 0]);
        assert_close("squares", &values(&found), &[expected], 1e-6 * expected);
    }
    assert_eq!(values(&sum_of_squares(emulate, &[]).unwrap()), [0.0]);
    assert!(squares_launch(&[1 << 31]).is_err());
}
