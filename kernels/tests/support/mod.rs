//! Shapes and edge cases of a mixer, their data, and the comparison with the oracle: one list for
//! every back end.

// Every test takes a part of it.
#![allow(dead_code, unreachable_pub, unused_imports)]

mod cases;
mod compare;
mod mlx;
mod ring;

pub use cases::{Case, documents, published, ragged, steps, tokens};
pub use compare::{Found, assert_close, check, error_of, scale_of};
pub use mlx::{array, in_pieces, on, state, values, weights};
pub use ring::{Ring, rings};

use mlx_llamba_kernels::oracle::{self, State, Weights};
use mlx_rs::Dtype;

/// Deterministic values in -1..1 (SplitMix64).
pub struct Values(pub u64);

impl Values {
    fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z >> 11) as f64 / (1u64 << 52) as f64 - 1.0
    }

    /// Values that `dtype` holds exactly, so that all sides see the same numbers.
    pub fn take(&mut self, len: usize, scale: f64, dtype: Dtype) -> Vec<f64> {
        (0..len).map(|_| round(self.next() * scale, dtype)).collect()
    }
}

/// Cut to the bits of `dtype`.
fn round(value: f64, dtype: Dtype) -> f64 {
    let dropped = match dtype {
        Dtype::Bfloat16 => 16,
        Dtype::Float16 => 13,
        _ => 0,
    };
    f64::from(f32::from_bits((value as f32).to_bits() >> dropped << dropped))
}

/// The numbers of a case, row-major in float64, and what the oracle says of them.
pub struct Data {
    /// (b, l, in_proj_dim); beyond a row's own length numbers that must not matter.
    pub rows: Vec<f64>,
    /// A sequence each.
    pub states: Vec<State>,
    pub weights: Weights,
    /// y (length, d_inner) of each sequence.
    pub y: Vec<Vec<f64>>,
    /// The states after it.
    pub after: Vec<State>,
}

impl Data {
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

    /// Asks the oracle again, after the numbers were changed.
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
