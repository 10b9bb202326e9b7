//! The computation of checks, and the definitions of the operations beside the mixer.

use std::fmt;

use mlx_rs::ops::concatenate;
use mlx_rs::{Array, Dtype};

use super::compare::{Found, error, error_of};
use super::data::{Arrays, Data, Values, array, values};
use super::gradient::gradient;
use super::{Case, Check, Failure, Matrix, Measured, Ring, timed};
use crate::{
    Activations, Backend, CrossEntropyOptions, Draw, Mode, Quantized, RandomKey, Scheme, Weight,
};

/// The most products that are computed in float64 for a matrix of a model.
const PRODUCTS: usize = 1 << 22;

/// Rows of logits that tokens are drawn from.
const DRAWS: usize = 50;

impl Check {
    pub(super) fn measure(&self, backend: Backend, float32: f64) -> Result<Measured, Failure> {
        let dtype = self.dtype();
        // Of `float` in float32; 16-bit results are rounded from float32 once.
        let bound = |float| match dtype {
            Dtype::Float32 => float,
            Dtype::Float16 => 1e-3,
            _ => 8e-3,
        };
        match self {
            Self::Mixer(case) => self.mixer(case, backend, float32),
            Self::MixerGradient(case) => gradient(case, backend, float32),
            Self::Swiglu { rows, width, .. } => {
                swiglu([*rows, *width], dtype, backend, bound(0.5 * float32))
            }
            Self::Norm { residual, rows, width, .. } => {
                norm(*residual, [*rows, *width], dtype, backend, bound(0.5 * float32))
            }
            Self::Matmul { rows, matrix, .. } => self.matmul(*rows, matrix, backend, float32),
            Self::RingAttention(ring) => attention(ring, backend, bound(float32)),
            Self::Draw { vocab, .. } => draw(*vocab, dtype, backend),
            Self::Rows { rows, matrix, .. } => {
                looked_up(*rows, matrix, dtype, backend, bound(float32))
            }
            Self::Blocks(step) => step.measure(backend, self.last_place(float32)),
            Self::CrossEntropy { rows, vocab, temperature, .. } => {
                let bounds = [bound(float32), float32];
                cross_entropy([*rows, *vocab], *temperature, dtype, backend, bounds)
            }
        }
    }

    fn mixer(&self, case: &Case, backend: Backend, float32: f64) -> Result<Measured, Failure> {
        let data = Data::new(case);
        let arrays = Arrays::new(case, &data)?;
        let timed = timed(&arrays.all(), || {
            let mixed = arrays.mix(backend, case)?;
            Ok(vec![mixed.y, mixed.state.conv, mixed.state.ssm])
        })?;
        let [y, conv, ssm] = &timed.found[..] else { return Err("no three results".into()) };
        let ours = error_of(case, &Found::from_arrays([y, conv, ssm])?, &data);
        let mut bounds = [float32; 2];
        if case.dtype != Dtype::Float32 {
            let plain = Found::of(&arrays.mix(Backend::PLAIN, case)?)?;
            let last_place = self.last_place(float32);
            bounds = error_of(case, &plain, &data).map(|plain| (2.0 * plain).max(last_place));
        }
        Ok(Measured { errors: ours.into_iter().zip(bounds).collect(), timed })
    }

    fn matmul(
        &self,
        rows: usize,
        matrix: &Matrix,
        backend: Backend,
        float32: f64,
    ) -> Result<Measured, Failure> {
        let (weight, limit) = matrix.weight(self.dtype())?;
        let (out, within) = matrix.shape();
        let (x, x64) = random(5, [rows, within], self.dtype())?;
        let step = (rows * out * within).div_ceil(limit).max(1);
        let sample: Vec<i32> = (0..out as i32).step_by(step).collect();
        let lines = lines(&weight, &Array::from_slice(&sample, &[sample.len() as i32]))?;
        let mut expected = Vec::with_capacity(rows * sample.len());
        for x in x64.chunks(within) {
            let product = |w: &[f64]| x.iter().zip(w).map(|(x, w)| x * w).sum::<f64>();
            expected.extend(lines.chunks(within).map(product));
        }
        let error = |y: &Array| -> Result<f64, Failure> {
            let y = values(y)?;
            let sampled = (0..y.len()).filter(|i| (i % out).is_multiple_of(step));
            Ok(error(&sampled.map(|i| y[i]).collect::<Vec<_>>(), &expected))
        };
        let arranged = backend.arrange(weight.clone())?;
        let inputs = [&[&x][..], &arranged.arrays()].concat();
        let timed = timed(&inputs, || Ok(vec![backend.matmul(&x, &arranged)?]))?;
        // Not MLX's own product with quantized matrices, which some GPUs compile for half a minute.
        let plain = error(&match &weight {
            Weight::Quantized(quantized) => quantized.matmul_dequantized(&x, i32::MAX)?,
            weight => Backend::PLAIN.matmul(&x, weight)?,
        })?;
        let rounding = match backend.activations() {
            Activations::Float32 => self.last_place(float32),
            Activations::Int8 => 0.02,
        };
        let bound = (2.0 * plain).max(rounding);
        Ok(Measured { errors: vec![(error(&timed.found[0])?, bound)], timed })
    }
}

impl Matrix {
    /// Returns out and in.
    fn shape(&self) -> (usize, usize) {
        match self {
            Self::Random { out, within, .. } => (*out, *within),
            Self::Given(Weight::Dense(w)) => (w.dim(0) as usize, w.dim(1) as usize),
            Self::Given(Weight::Packed(w)) => w.shape(),
            Self::Given(Weight::Quantized(w)) => {
                (w.weight.dim(0) as usize, w.scales.dim(1) as usize * w.scheme.group_size)
            }
        }
    }

    /// Returns the matrix, and the number of products to compute in float64.
    fn weight(&self, dtype: Dtype) -> Result<(Weight, usize), Failure> {
        match self {
            Self::Given(weight) => Ok((weight.clone(), PRODUCTS)),
            Self::Random { out, within, group } => {
                let (w, _) = random(6, [*out, *within], dtype)?;
                let scheme = Scheme::new(*group, 4, Mode::Affine)?;
                Ok((Weight::Quantized(Quantized::quantize(&w, scheme)?), usize::MAX))
            }
        }
    }
}

impl fmt::Display for Matrix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (out, within) = self.shape();
        write!(f, "{within} by {out}")?;
        match self {
            Self::Given(Weight::Dense(w)) => write!(f, " of {:?}", w.dtype()),
            Self::Given(Weight::Quantized(w)) => write_scheme(f, w.scheme),
            Self::Given(Weight::Packed(w)) => write_scheme(f, w.scheme()),
            Self::Random { group, .. } => write!(f, " g={group}"),
        }
    }
}

fn write_scheme(f: &mut fmt::Formatter<'_>, scheme: Scheme) -> fmt::Result {
    let Scheme { bits, mode, group_size } = scheme;
    write!(f, " {mode} {bits} bits g={group_size}")
}

/// Writes the name of a mixer's case.
pub(super) fn write_mixer(f: &mut fmt::Formatter<'_>, case: &Case) -> fmt::Result {
    let (crate::Dims { h, g, p, n, k }, b, l) = (case.dims, case.lengths.len(), case.l);
    write!(f, "mixer {:?} b={b} l={l} h={h} g={g} p={p} n={n} k={k}", case.dtype)?;
    for (flag, word) in [
        (case.ragged, "ragged"),
        (case.split_A_log, "split"),
        (!case.conv_bias, "no-conv-bias"),
        (!case.z_bias, "no-z-bias"),
        (case.A_log > 3.0, "decays"),
    ] {
        if flag {
            write!(f, " {word}")?;
        }
    }
    Ok(())
}

/// Returns rows and columns of numbers that `dtype` holds exactly, and these numbers.
fn random(
    seed: u64,
    [rows, columns]: [usize; 2],
    dtype: Dtype,
) -> Result<(Array, Vec<f64>), Failure> {
    let numbers = Values(seed).take(rows * columns, 3.0, dtype);
    Ok((array(dtype, &[rows, columns], &numbers)?, numbers))
}

/// Returns rows of a matrix as the numbers that they stand for.
fn lines(weight: &Weight, rows: &Array) -> Result<Vec<f64>, Failure> {
    values(&weight.rows(rows, Dtype::Float32)?)
}

/// Compares arrays with their definitions.
fn measured(
    inputs: &[&Array],
    operation: impl Fn() -> Result<Vec<Array>, Failure>,
    expected: &[Vec<f64>],
    bound: f64,
) -> Result<Measured, Failure> {
    let timed = timed(inputs, operation)?;
    let errors = timed.found.iter().zip(expected).map(|(f, e)| Ok((error(&values(f)?, e), bound)));
    Ok(Measured { errors: errors.collect::<Result<_, Failure>>()?, timed })
}

/// Compares rows from all of a matrix, the last of them by an id beyond it.
fn looked_up(
    rows: usize,
    matrix: &Matrix,
    dtype: Dtype,
    backend: Backend,
    bound: f64,
) -> Result<Measured, Failure> {
    let (weight, _) = matrix.weight(dtype)?;
    let (out, _) = matrix.shape();
    let id = |i: usize| if i + 1 == rows { out + 7 } else { i * 7919 % out };
    let ids: Vec<u32> = (0..rows).map(|i| id(i) as u32).collect();
    let ids = Array::from_slice(&ids, &[rows as i32, 1]);
    let expected = lines(&weight, &ids)?;
    let inputs = [&[&ids][..], &weight.arrays()].concat();
    measured(&inputs, || Ok(vec![backend.rows(&ids, &weight, dtype)?]), &[expected], bound)
}

fn swiglu(
    shape: [usize; 2],
    dtype: Dtype,
    backend: Backend,
    bound: f64,
) -> Result<Measured, Failure> {
    let ((gate, g), (up, u)) = (random(1, shape, dtype)?, random(2, shape, dtype)?);
    let gate_up = concatenate(&[&gate, &up], 1)?;
    let expected = g.iter().zip(&u).map(|(g, u)| g / (1.0 + (-g).exp()) * u).collect();
    measured(&[&gate_up], || Ok(vec![backend.swiglu(&gate_up)?]), &[expected], bound)
}

fn norm(
    residual: bool,
    shape: [usize; 2],
    dtype: Dtype,
    backend: Backend,
    bound: f64,
) -> Result<Measured, Failure> {
    let ((x, a), (y, b)) = (random(3, shape, dtype)?, random(4, shape, dtype)?);
    let (weight, w) = random(7, [1, shape[1]], dtype)?;
    let weight = weight.reshape(&[-1])?;
    let sums = if residual { a.iter().zip(&b).map(|(a, b)| a + b).collect() } else { a };
    let norm = |row: &[f64]| -> Vec<f64> {
        let mean = row.iter().map(|v| v * v).sum::<f64>() / row.len() as f64;
        row.iter().zip(&w).map(|(v, w)| v / (mean + 1e-5).sqrt() * w).collect()
    };
    let normed: Vec<f64> = sums.chunks(shape[1]).flat_map(norm).collect();
    if !residual {
        let operation = || Ok(vec![backend.rms_norm(&x, &weight, 1e-5)?]);
        return measured(&[&x, &weight], operation, &[normed], bound);
    }
    let operation = || {
        let (sum, normed) = backend.add_rms_norm(&x, &y, &weight, 1e-5)?;
        Ok(vec![sum, normed])
    };
    measured(&[&x, &y, &weight], operation, &[sums, normed], bound)
}

fn attention(ring: &Ring, backend: Backend, bound: f64) -> Result<Measured, Failure> {
    let data = ring.data();
    let arrays = ring.arrays(&data)?;
    let inputs: Vec<&Array> = arrays.iter().collect();
    let expected = [ring.expected(&data)];
    measured(&inputs, || Ok(vec![ring.run(backend, &arrays)?]), &expected, bound)
}

/// Measures the share of rows whose draw is not that of MLX's operations.
fn draw(vocab: usize, dtype: Dtype, backend: Backend) -> Result<Measured, Failure> {
    let (logits, _) = random(6, [DRAWS, vocab], dtype)?;
    let keys = RandomKey([7, 11]).split(DRAWS as u32);
    let draw = Draw { vocab, temperature: 0.8, depth: 4.0, keys: &keys };
    let timed = timed(&[&logits], || Ok(vec![backend.draw(&logits, &draw)?]))?;
    let [ours, plain] = [values(&timed.found[0])?, values(&Backend::PLAIN.draw(&logits, &draw)?)?];
    let other = ours.iter().zip(&plain).filter(|(ours, plain)| ours != plain).count();
    Ok(Measured { errors: vec![(other as f64 / DRAWS as f64, 0.0)], timed })
}

/// Compares the gradient, within the first bound, and the three sums, within the second.
fn cross_entropy(
    shape: [usize; 2],
    temperature: f32,
    dtype: Dtype,
    backend: Backend,
    bounds: [f64; 2],
) -> Result<Measured, Failure> {
    let ((logits, s), (teacher, t)) = (random(7, shape, dtype)?, random(8, shape, Dtype::Float32)?);
    // Gradients of about 1, as the bounds are relative to 1 or more.
    let weight = shape[1] as f32;
    let how = CrossEntropyOptions {
        temperature,
        teacher_weight: 0.75 * weight,
        next_weight: 0.25 * weight,
    };
    let (gradient, sums) = compared(&s, Some(&t), shape[1], how);
    let timed = timed(&[&logits, &teacher], || {
        let found = backend.cross_entropy(&logits, Some(&teacher), how)?;
        Ok(vec![found.gradient, found.cross_entropy, found.kl, found.log_sum])
    })?;
    let expected = std::iter::once(&gradient[..]).chain(sums.iter().map(std::slice::from_ref));
    let all = timed.found.iter().zip(expected).enumerate();
    let errors = all.map(|(i, (f, e))| Ok((error(&values(f)?, e), bounds[i.min(1)])));
    Ok(Measured { errors: errors.collect::<Result<_, Failure>>()?, timed })
}

/// Returns the gradient and the three sums of [`Backend::cross_entropy`] by their definitions, of
/// rows of `v` logits.
pub fn compared(
    s: &[f64],
    t: Option<&[f64]>,
    v: usize,
    how: CrossEntropyOptions,
) -> (Vec<f64>, [f64; 3]) {
    let CrossEntropyOptions { temperature, teacher_weight, next_weight } = how;
    let [T, w, n] = [temperature, teacher_weight, next_weight].map(f64::from);
    let log_softmax = |row: &[f64], T: f64| -> Vec<f64> {
        let most = row.iter().fold(f64::MIN, |m, x| m.max(x / T));
        let log = row.iter().map(|x| (x / T - most).exp()).sum::<f64>().ln() + most;
        row.iter().map(|x| x / T - log).collect()
    };
    let (mut gradient, mut sums) = (Vec::new(), [0.0; 3]);
    for (row, s) in s.chunks(v).enumerate() {
        let one = log_softmax(s, 1.0);
        sums[2] += s[0] - one[0];
        let taught = t.map(|t| (log_softmax(s, T), log_softmax(&t[row * v..][..v], T)));
        for i in 0..v {
            let mut g = n * one[i].exp();
            if let Some((q, p)) = &taught {
                g += w * (q[i].exp() - p[i].exp());
                sums[0] -= p[i].exp() * q[i];
                sums[1] += p[i].exp() * (p[i] - q[i]);
            }
            gradient.push(g);
        }
    }
    (gradient, sums)
}
