//! The definition of a mixer: float64, one loop per sum, no MLX.
//!
//! Source: Llamba (arXiv 2502.14458), section 3; Mamba-2 (arXiv 2405.21060), section 2, with the
//! discrete decay `a = sigmoid(-A_log)` given by the projection itself.

use crate::{Activation, Dims};

/// Weights of a mixer between its projections, row-major.
#[derive(Debug, Clone, Default)]
pub struct Weights {
    /// (conv_dim, k); the last tap multiplies the current token.
    pub conv_weight: Vec<f64>,
    /// (conv_dim,)
    pub conv_bias: Vec<f64>,
    /// (d_inner,)
    pub z_bias: Vec<f64>,
    /// (h,)
    pub D: Vec<f64>,
}

/// State of one sequence, row-major.
#[derive(Debug, Clone, Default)]
pub struct State {
    /// (k-1, conv_dim): the last inputs of the convolution, oldest first.
    pub conv: Vec<f64>,
    /// (h, p, n)
    pub ssm: Vec<f64>,
}

fn sigmoid(v: f64) -> f64 {
    1.0 / (1.0 + (-v).exp())
}

/// Computes one sequence of rows `xBC | z | A_log` (l, in_proj_dim) through the mixer.
///
/// `starts` (l,) is true where a document starts: the state is reset there.
///
/// Returns `y * silu(z + z_bias)` (l, d_inner) and advances `state`.
pub fn mixer(
    rows: &[f64],
    starts: Option<&[bool]>,
    state: &mut State,
    weights: &Weights,
    dims: Dims,
    activation: Activation,
) -> Vec<f64> {
    let Dims { h, g, p, n, k } = dims;
    let (d_inner, conv_dim) = (dims.d_inner(), dims.conv_dim());
    let mut out = Vec::with_capacity(rows.len() / dims.in_proj_dim() * d_inner);
    for (t, row) in rows.chunks_exact(dims.in_proj_dim()).enumerate() {
        if starts.is_some_and(|starts| starts[t]) {
            state.conv.fill(0.0);
            state.ssm.fill(0.0);
        }
        let (xBC, rest) = row.split_at(conv_dim);
        let (z, A_log) = rest.split_at(d_inner);
        // Causal depthwise convolution over the k-1 kept inputs and this one.
        state.conv.extend_from_slice(xBC);
        let mut mixed = weights.conv_bias.clone();
        for (channel, sum) in mixed.iter_mut().enumerate() {
            for tap in 0..k {
                *sum +=
                    weights.conv_weight[channel * k + tap] * state.conv[tap * conv_dim + channel];
            }
            if activation == Activation::Silu {
                *sum *= sigmoid(*sum);
            }
        }
        state.conv.drain(..conv_dim);
        let (x, BC) = mixed.split_at(d_inner);
        let (B, C) = BC.split_at(g * n);
        // H = a H + x (outer) B, y = H C + D x, head by head.
        for i in 0..h {
            let (a, group) = (sigmoid(-A_log[i]), i / (h / g));
            for j in 0..p {
                let (x, H) = (x[i * p + j], &mut state.ssm[(i * p + j) * n..][..n]);
                let mut y = weights.D[i] * x;
                for (s, H) in H.iter_mut().enumerate() {
                    *H = a * *H + x * B[group * n + s];
                    y += *H * C[group * n + s];
                }
                let gate = z[i * p + j] + weights.z_bias[i * p + j];
                out.push(y * gate * sigmoid(gate));
            }
        }
    }
    out
}
