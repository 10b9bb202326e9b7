//! Deterministic numbers, and those of a mixer with the oracle's results.

use mlx_rs::ops::split_at_indices;
use mlx_rs::{Array, Dtype};

use super::{Case, Failure, Found};
use crate::oracle::{self, State, Weights};
use crate::{Backend, Mixed, MixerInput, MixerState, MixerWeights};

/// Deterministic values in -1..1 (SplitMix64).
#[derive(Debug)]
pub struct Values(pub u64);

impl Values {
    fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z
    }

    fn next(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1u64 << 52) as f64 - 1.0
    }

    /// Returns random bits.
    pub(super) fn words(&mut self, len: usize) -> Vec<u32> {
        (0..len).map(|_| (self.bits() >> 32) as u32).collect()
    }

    /// Returns values that `dtype` holds exactly, so that all sides see the same numbers.
    pub fn take(&mut self, len: usize, scale: f64, dtype: Dtype) -> Vec<f64> {
        (0..len).map(|_| round(self.next() * scale, dtype)).collect()
    }
}

/// Cuts a number to the bits of `dtype`.
fn round(value: f64, dtype: Dtype) -> f64 {
    let dropped = match dtype {
        Dtype::Bfloat16 => 16,
        Dtype::Float16 => 13,
        _ => 0,
    };
    f64::from(f32::from_bits((value as f32).to_bits() >> dropped << dropped))
}

/// Returns an array of `dtype`, which holds the values exactly.
///
/// # Errors
/// Those of MLX.
pub fn array(dtype: Dtype, shape: &[usize], values: &[f64]) -> mlx_rs::error::Result<Array> {
    let values: Vec<f32> = values.iter().map(|&v| v as f32).collect();
    let shape: Vec<i32> = shape.iter().map(|&s| s as i32).collect();
    Array::from_slice(&values, &shape).as_dtype(dtype)
}

/// Evaluates an array and returns its elements, row-major.
///
/// # Errors
/// Those of MLX.
pub fn values(array: &Array) -> Result<Vec<f64>, Failure> {
    if array.size() == 0 {
        return Ok(Vec::new());
    }
    let array = array.as_dtype(Dtype::Float32)?.contiguous()?;
    array.eval()?;
    Ok(array.to_vec_exact::<f32>()?.into_iter().map(f64::from).collect())
}

/// The numbers of a case, row-major in float64, and the oracle's results.
#[derive(Debug)]
pub struct Data {
    /// (b, l, in_proj_dim); beyond a row's own length numbers that must not matter.
    pub rows: Vec<f64>,
    /// The states before the first token, one per sequence.
    pub states: Vec<State>,
    /// The weights.
    pub weights: Weights,
    /// y (length, d_inner) of each sequence.
    pub y: Vec<Vec<f64>>,
    /// The states after it.
    pub after: Vec<State>,
}

impl Data {
    /// Makes the numbers of a case and computes its results.
    pub fn new(case: &Case) -> Self {
        let (mut values, dims, dtype) = (Values(case.seed), case.dims, case.dtype);
        let width = dims.in_proj_dim();
        let mut rows = values.take(case.lengths.len() * case.l * width, 1.0, dtype);
        for row in rows.chunks_exact_mut(width) {
            let A_log = values.take(dims.h, case.A_log, dtype);
            row[width - dims.h..].copy_from_slice(&A_log);
        }
        let states: Vec<State> = (0..case.lengths.len())
            .map(|_| State {
                conv: values.take((dims.k - 1) * dims.conv_dim(), 1.0, dtype),
                ssm: values.take(dims.h * dims.p * dims.n, 1.0, Dtype::Float32),
            })
            .collect();
        // An absent bias is zero.
        let [conv_bias, z_bias] =
            [case.conv_bias, case.z_bias].map(|has| if has { 0.5 } else { 0.0 });
        let weights = Weights {
            conv_weight: values.take(dims.conv_dim() * dims.k, 1.0, dtype),
            conv_bias: values.take(dims.conv_dim(), conv_bias, dtype),
            z_bias: values.take(dims.d_inner(), z_bias, dtype),
            D: values.take(dims.h, 1.0, Dtype::Float32),
        };
        let (y, after) = (Vec::new(), Vec::new());
        let mut data = Self { rows, states, weights, y, after };
        data.recompute(case);
        data
    }

    /// Computes the results again, after the numbers were changed.
    pub fn recompute(&mut self, case: &Case) {
        let width = case.dims.in_proj_dim();
        self.after = self.states.clone();
        self.y.clear();
        let starts = case.start_flags();
        for (i, (state, &length)) in self.after.iter_mut().zip(&case.lengths).enumerate() {
            let rows = &self.rows[i * case.l * width..][..length * width];
            let starts = starts.as_ref().map(|starts| &starts[i * case.l..][..length]);
            let (weights, dims) = (&self.weights, case.dims);
            self.y.push(oracle::mixer(rows, starts, state, weights, dims, case.activation));
        }
    }
}

/// The arrays of a case.
#[derive(Debug)]
pub struct Arrays {
    /// (b, l, in_proj_dim), without `A_log` if that is split off.
    pub rows: Array,
    /// (b, l, h), if it is split off.
    pub A_log: Option<Array>,
    /// (b,)
    pub lengths: Option<Array>,
    /// (b, l)
    pub starts: Option<Array>,
    /// Before the first token.
    pub state: MixerState,
    /// The weights.
    pub weights: MixerWeights,
}

impl Arrays {
    /// Makes the arrays of a case.
    ///
    /// # Errors
    /// Those of MLX.
    pub fn new(case: &Case, data: &Data) -> Result<Self, Failure> {
        let (dims, b, l, of) = (case.dims, case.lengths.len(), case.l, case.dtype);
        let width = dims.in_proj_dim();
        let mut rows = array(of, &[b, l, width], &data.rows)?;
        let mut A_log = None;
        if case.split_A_log {
            let mut parts = split_at_indices(&rows, &[(width - dims.h) as i32], -1)?;
            (A_log, rows) = (parts.pop(), parts.swap_remove(0));
        }
        let lengths: Vec<i32> = case.lengths.iter().map(|&l| l as i32).collect();
        let starts = case.start_flags();
        let all = |part: fn(&State) -> &Vec<f64>| -> Vec<f64> {
            data.states.iter().flat_map(|state| part(state).iter().copied()).collect()
        };
        let bias =
            |has: bool, values: &[f64]| has.then(|| array(of, &[values.len()], values)).transpose();
        let weights = &data.weights;
        Ok(Self {
            rows,
            A_log,
            lengths: case.ragged.then(|| Array::from_slice(&lengths, &[b as i32])),
            starts: starts.map(|starts| Array::from_slice(&starts, &[b as i32, l as i32])),
            state: MixerState {
                conv: array(of, &[b, dims.k - 1, dims.conv_dim()], &all(|state| &state.conv))?,
                ssm: array(Dtype::Float32, &[b, dims.h, dims.p, dims.n], &all(|state| &state.ssm))?,
            },
            weights: MixerWeights {
                conv_weight: array(of, &[dims.conv_dim(), dims.k], &weights.conv_weight)?,
                conv_bias: bias(case.conv_bias, &weights.conv_bias)?,
                z_bias: bias(case.z_bias, &weights.z_bias)?,
                D: array(Dtype::Float32, &[dims.h], &weights.D)?,
            },
        })
    }

    /// Returns all arrays.
    pub(super) fn all(&self) -> Vec<&Array> {
        let Self { rows, state, weights, .. } = self;
        let mut all = vec![rows, &state.conv, &state.ssm, &weights.conv_weight, &weights.D];
        all.extend(self.A_log.iter().chain(&self.lengths).chain(&self.starts));
        all.extend(weights.conv_bias.iter().chain(&weights.z_bias));
        all
    }

    /// Returns the input of the mixer.
    pub fn input(&self) -> MixerInput<'_> {
        MixerInput {
            rows: &self.rows,
            A_log: self.A_log.as_ref(),
            lengths: self.lengths.as_ref(),
            starts: self.starts.as_ref(),
        }
    }

    /// Computes the case. Lazy.
    ///
    /// # Errors
    /// Those of MLX.
    pub fn mix(&self, backend: Backend, case: &Case) -> Result<Mixed, Failure> {
        let (dims, activation) = (case.dims, case.activation);
        Ok(backend.mixer(&self.input(), &self.state, &self.weights, dims, activation)?)
    }
}

impl Found {
    /// Evaluates y and the two states.
    pub(super) fn from_arrays(parts: [&Array; 3]) -> Result<Self, Failure> {
        let [y, conv, ssm] = parts.map(values);
        Ok(Self { y: y?, conv: conv?, ssm: ssm? })
    }

    /// Evaluates the results of a mixer.
    ///
    /// # Errors
    /// Those of MLX.
    pub fn of(mixed: &Mixed) -> Result<Self, Failure> {
        Self::from_arrays([&mixed.y, &mixed.state.conv, &mixed.state.ssm])
    }
}
