//! The kernels of training under the emulator, compared with float64 loops: the recurrence with all
//! gradients that are made of it, AdamW, and cross entropy.

#![allow(non_snake_case, clippy::unwrap_used, clippy::panic)]

mod emulated;
mod support;

use emulated::{buffer, run_launch};
use mlx_llamba_kernels::check::compared;
use mlx_llamba_kernels::gpu::{
    Launch, RecurrenceCall, adamw, adamw_launch, cross_entropy, cross_entropy_launch, recurrence,
    recurrence_launch, squares_launch, sum_of_squares,
};
use mlx_llamba_kernels::{AdamWResult, AdamWStep, Backend, CrossEntropyOptions, Dims};
use mlx_rs::error::Result;
use mlx_rs::ops::sum;
use mlx_rs::transforms::value_and_grad_with_argnums;
use mlx_rs::{Array, Dtype};
use support::{Values, array, assert_close, scale_of, values};

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

struct Case {
    b: usize,
    l: usize,
    dims: Dims,
    /// (sequence, token) where documents start.
    starts: &'static [(usize, usize)],
    /// Size of the logarithms of decays.
    decay: f64,
}

/// x, log_a, B, C and H, and the weights of y and of the last H in the loss.
struct Numbers([Vec<f64>; 7]);

impl Case {
    fn shapes(&self) -> [Vec<usize>; 7] {
        let (b, l, Dims { h, g, p, n, .. }) = (self.b, self.l, self.dims);
        let H = vec![b, h, p, n];
        let (x, B) = (vec![b, l, h, p], vec![b, l, g, n]);
        [x.clone(), vec![b, l, h], B.clone(), B, H.clone(), x, H]
    }

    fn numbers(&self) -> Numbers {
        let mut seed = 10;
        Numbers(self.shapes().map(|shape| {
            seed += 1;
            let count = shape.iter().product();
            let mut all = Values(seed).take(count, 1.0, Dtype::Float32);
            if seed == 12 {
                all.iter_mut().for_each(|v| *v = f64::from((-self.decay * v.abs()) as f32));
            }
            all
        }))
    }

    /// The loss and its gradients by x, log_a, B, C and H, in float64.
    fn expected(&self, Numbers([x, log_a, B, C, H0, by_y, by_H]): &Numbers) -> Vec<Vec<f64>> {
        let (b, l, Dims { h, g, p, n, .. }) = (self.b, self.l, self.dims);
        let mut gradients = self.shapes().map(|shape| vec![0.0; shape.iter().product()]);
        let [dx, d_log_a, dB, dC, dH, ..] = &mut gradients;
        let mut loss = 0.0;
        for (i, head) in (0..b).flat_map(|i| (0..h).map(move |head| (i, head))) {
            let state = (i * h + head) * p * n;
            let a = |t: usize| match self.starts.contains(&(i, t)) {
                true => 0.0,
                false => log_a[(i * l + t) * h + head].exp(),
            };
            let at_x = |t: usize| ((i * l + t) * h + head) * p;
            let at_B = |t: usize| ((i * l + t) * g + head * g / h) * n;
            let mut H = vec![H0[state..state + p * n].to_vec()];
            for t in 0..l {
                let next =
                    (0..p * n).map(|k| a(t) * H[t][k] + x[at_x(t) + k / n] * B[at_B(t) + k % n]);
                H.push(next.collect());
                for k in 0..p * n {
                    loss += by_y[at_x(t) + k / n] * H[t + 1][k] * C[at_B(t) + k % n];
                }
            }
            loss += H[l].iter().zip(&by_H[state..]).map(|(a, b)| a * b).sum::<f64>();
            let mut G = by_H[state..state + p * n].to_vec();
            for t in (0..l).rev() {
                let mut of_decay = 0.0;
                for k in 0..p * n {
                    let (row, column) = (at_x(t) + k / n, at_B(t) + k % n);
                    G[k] += by_y[row] * C[column];
                    dC[column] += H[t + 1][k] * by_y[row];
                    dx[row] += G[k] * B[column];
                    dB[column] += G[k] * x[row];
                    of_decay += G[k] * H[t][k] * a(t);
                    G[k] *= a(t);
                }
                d_log_a[(i * l + t) * h + head] = of_decay;
            }
            dH[state..state + p * n].copy_from_slice(&G);
        }
        std::iter::once(vec![loss]).chain(gradients.into_iter().take(5)).collect()
    }

    fn found(&self, numbers: &Numbers) -> Vec<Vec<f64>> {
        let shapes = self.shapes();
        let arrays: Vec<Array> = shapes
            .iter()
            .zip(&numbers.0)
            .map(|(shape, of)| array(Dtype::Float32, shape, of))
            .collect();
        let flags: Vec<bool> =
            (0..self.b * self.l).map(|k| self.starts.contains(&(k / self.l, k % self.l))).collect();
        let starts = Array::from_slice(&flags, &[self.b as i32, self.l as i32]);
        let starts = (!self.starts.is_empty()).then_some(&starts);
        let loss = |x: &[Array]| -> Result<Vec<Array>> {
            let inputs = [&x[0], &x[1], &x[2], &x[3], &x[4]];
            let (y, H) = recurrence(emulate, inputs, starts, self.dims).unwrap();
            let total = sum(y.multiply(&arrays[5])?, None)?;
            Ok(vec![total.add(sum(H.multiply(&arrays[6])?, None)?)?])
        };
        let (value, gradients) =
            value_and_grad_with_argnums(loss, &[0, 1, 2, 3, 4][..])(&arrays[..5]).unwrap();
        value.iter().chain(&gradients).map(values).collect()
    }
}

#[test]
fn outputs_and_gradients_equal_the_loops() {
    let case = |[h, g, p, n]: [usize; 4], b, l, starts, decay| Case {
        b,
        l,
        dims: Dims { h, g, p, n, k: 4 },
        starts,
        decay,
    };
    for case in [
        case([6, 3, 5, 7], 2, 37, &[(0, 0), (0, 16), (1, 5), (1, 36)], 0.3),
        case([2, 2, 18, 12], 1, 16, &[], 3.0),
        case([2, 1, 18, 12], 1, 20, &[], 100.0),
    ] {
        let numbers = case.numbers();
        let (found, expected) = (case.found(&numbers), case.expected(&numbers));
        assert_eq!(found.len(), 6);
        let x_dx = case.dims.p as f64 * scale_of(&numbers.0[0]) * scale_of(&expected[1]);
        for (i, (found, expected)) in found.iter().zip(&expected).enumerate() {
            let what = format!("{:?}, {} tokens: {i} (0 is the loss)", case.dims, case.l);
            let scale = match i {
                0 => 10.0 * scale_of(expected),
                // A sum of terms of the size of <x, dx>, which cancel where decays are strong.
                2 => scale_of(expected).max(x_dx),
                _ => scale_of(expected),
            };
            assert_close(&what, found, expected, TOLERANCE * scale);
        }
    }
}

#[test]
fn sizes_that_do_not_fit_are_refused() {
    let call = |columns, l| RecurrenceCall {
        b: 1,
        l,
        h: 1,
        heads: [1; 3],
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
