//! A block: the mixer and the MLP, each with its norm and residual connection.

use mlx_llamba_kernels::{Activation, Backend, Dims, MixerInput, MixerState, MixerWeights};
use mlx_rs::ops::concatenate;
use mlx_rs::{Array, Dtype};

use crate::error::Result;
use crate::linear::{DtypePolicy, Linear, optional};
use crate::row_layout::RowLayout;
use crate::weights::Weights;

/// Epsilon of the norms inside blocks, whatever the configuration says.
pub(crate) const NORM_EPSILON: f32 = 1e-5;

/// `x + mixer(norm(x))`, then `x + mlp(norm(x))`.
#[derive(Debug, Clone)]
pub(crate) struct Block {
    pub(crate) input_layernorm: Array,
    mixer: Mixer,
    post_attention_layernorm: Array,
    mlp: Mlp,
}

/// Discrete-Mamba-2 between its two projections.
#[derive(Debug, Clone)]
struct Mixer {
    backend: Backend,
    dims: Dims,
    activation: Activation,
    in_proj: Linear,
    /// The rows of `in_proj` that yield `A_log`, where they are stored separately.
    A_log_proj: Option<Linear>,
    inner: MixerWeights,
    out_proj: Linear,
}

/// `down(silu(gate(x)) * up(x))`
#[derive(Debug, Clone)]
struct Mlp {
    backend: Backend,
    gate_up: GateUp,
    down_proj: Linear,
}

/// The two matrices with the same input.
#[derive(Debug, Clone)]
enum GateUp {
    /// Stacked: one matrix multiplication.
    Joined(Linear),
    /// Separate, where a recipe quantizes them differently.
    Apart(Linear, Linear),
}

impl Block {
    /// Loads the block whose tensors' names begin with `prefix`. Lazy.
    pub(crate) fn load(
        checkpoint: &impl Weights,
        prefix: &str,
        compute: DtypePolicy,
    ) -> Result<Self> {
        let dtype = compute.dtype;
        let float = |name: &str, dtype: Dtype| -> Result<Array> {
            Ok(checkpoint.array(&format!("{prefix}.{name}"))?.as_dtype(dtype)?)
        };
        let maybe = |name: &str| optional(checkpoint, &format!("{prefix}.{name}"), dtype);
        let linear = |name: &str| Linear::load(checkpoint, &format!("{prefix}.{name}"), compute);
        Ok(Self {
            input_layernorm: float("input_layernorm.weight", dtype)?,
            mixer: Mixer {
                backend: compute.backend,
                dims: checkpoint.config().dims(),
                activation: checkpoint.config().ssm.activation,
                in_proj: linear("mixer.in_proj")?,
                A_log_proj: if checkpoint.config().split_a_log {
                    Some(linear("mixer.A_log_proj")?)
                } else {
                    None
                },
                inner: MixerWeights {
                    conv_weight: float("mixer.conv1d.weight", dtype)?,
                    conv_bias: maybe("mixer.conv1d.bias")?,
                    z_bias: maybe("mixer.z_bias")?,
                    D: float("mixer.D", Dtype::Float32)?,
                },
                out_proj: linear("mixer.out_proj")?,
            },
            post_attention_layernorm: float("post_attention_layernorm.weight", dtype)?,
            mlp: Mlp {
                backend: compute.backend,
                gate_up: GateUp::new(linear("mlp.gate_proj")?, linear("mlp.up_proj")?)?,
                down_proj: linear("mlp.down_proj")?,
            },
        })
    }

    /// Returns the residual stream after the mixer, the output of the MLP, and the new state.
    ///
    /// `x` (b, l, d) is the residual stream before the block, and `u` its norm.
    pub(crate) fn forward(
        &self,
        x: &Array,
        u: &Array,
        layout: RowLayout<'_>,
        state: &MixerState,
    ) -> Result<(Array, Array, MixerState)> {
        let (y, state) = self.mixer.forward(u, layout, state)?;
        let norm = &self.post_attention_layernorm;
        let (x, u) = self.mixer.backend.add_rms_norm(x, &y, norm, NORM_EPSILON)?;
        Ok((x, self.mlp.forward(&u)?, state))
    }

    /// The mixer as a matrix over time (b, h, l, l), of the norm `u` (b, l, d).
    pub(crate) fn matrix(&self, u: &Array, layout: RowLayout<'_>) -> Result<Array> {
        self.mixer.matrix(u, layout)
    }

    /// The arrays of the block.
    pub(crate) fn arrays(&self) -> Vec<&Array> {
        let (mixer, mlp, inner) = (&self.mixer, &self.mlp, &self.mixer.inner);
        let mut all = vec![&self.input_layernorm, &self.post_attention_layernorm];
        all.extend([&inner.conv_weight, &inner.D]);
        all.extend(inner.conv_bias.iter().chain(&inner.z_bias));
        let linears = [&mixer.in_proj, &mixer.out_proj, &mlp.down_proj];
        all.extend(linears.into_iter().chain(mlp.gate_up.linears()).flat_map(Linear::arrays));
        all.extend(mixer.A_log_proj.iter().flat_map(Linear::arrays));
        all
    }
}

impl Mixer {
    /// (b, l, d) -> (b, l, d)
    fn forward(
        &self,
        u: &Array,
        layout: RowLayout<'_>,
        state: &MixerState,
    ) -> Result<(Array, MixerState)> {
        let mixed = self.project(u, layout, |input| {
            Ok(self.backend.mixer(input, state, &self.inner, self.dims, self.activation)?)
        })?;
        Ok((self.out_proj.forward(&mixed.y)?, mixed.state))
    }

    /// (b, l, d) -> (b, h, l, l)
    fn matrix(&self, u: &Array, layout: RowLayout<'_>) -> Result<Array> {
        self.project(u, layout, |input| {
            Ok(self.backend.mixing_matrix(input, &self.inner, self.dims, self.activation)?)
        })
    }

    /// Calls `f` with the first projection of `u`.
    fn project<T>(
        &self,
        u: &Array,
        layout: RowLayout<'_>,
        f: impl FnOnce(&MixerInput<'_>) -> Result<T>,
    ) -> Result<T> {
        let RowLayout { lengths, starts } = layout;
        let rows = self.in_proj.forward(u)?; // (b, l, in_proj_dim), or without A_log
        let A_log = self.A_log_proj.as_ref().map(|proj| proj.forward(u)).transpose()?; // (b, l, h)
        f(&MixerInput { rows: &rows, A_log: A_log.as_ref(), lengths, starts })
    }
}

impl GateUp {
    fn new(gate_proj: Linear, up_proj: Linear) -> Result<Self> {
        Ok(match Linear::join(&gate_proj, &up_proj)? {
            Some(joined) => Self::Joined(joined),
            None => Self::Apart(gate_proj, up_proj),
        })
    }

    fn linears(&self) -> impl Iterator<Item = &Linear> {
        match self {
            Self::Joined(both) => [Some(both), None],
            Self::Apart(gate_proj, up_proj) => [Some(gate_proj), Some(up_proj)],
        }
        .into_iter()
        .flatten()
    }

    /// (b, l, d) -> (b, l, 2 * intermediate_size)
    fn forward(&self, x: &Array) -> Result<Array> {
        match self {
            Self::Joined(both) => both.forward(x),
            Self::Apart(gate_proj, up_proj) => {
                Ok(concatenate(&[gate_proj.forward(x)?, up_proj.forward(x)?], -1)?)
            }
        }
    }
}

impl Mlp {
    /// (b, l, d) -> (b, l, d)
    fn forward(&self, x: &Array) -> Result<Array> {
        let gate_up = self.gate_up.forward(x)?; // (b, l, 2 * intermediate_size)
        self.down_proj.forward(&self.backend.swiglu(&gate_up)?)
    }
}
