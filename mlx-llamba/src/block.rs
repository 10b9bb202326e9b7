//! A block: the mixer and the MLP, each with its norm and residual connection.

use mlx_llamba_kernels::check::{Case, Check, Step};
use mlx_llamba_kernels::{
    Activation, Backend, BlockArgs, Dims, MixerInput, MixerState, MixerWeights, Mode, Scheme,
    Weight,
};
use mlx_rs::{Array, Dtype};

use crate::config::Config;
use crate::error::Result;
use crate::kernel_check;
use crate::linear::{DtypePolicy, GateUp, Linear, optional};
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
        let mut in_proj = linear("mixer.in_proj")?;
        let mut A_log_proj = None;
        let (dims, multiple) = (checkpoint.config().dims(), compute.backend.rows_multiple());
        if checkpoint.config().split_a_log {
            A_log_proj = Some(linear("mixer.A_log_proj")?);
        } else {
            in_proj = in_proj.padded(multiple)?;
        }
        Ok(Self {
            input_layernorm: float("input_layernorm.weight", dtype)?,
            mixer: Mixer {
                backend: compute.backend,
                dims,
                activation: checkpoint.config().ssm.activation,
                in_proj,
                A_log_proj,
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

    /// The block with a state as an argument of [`Backend::blocks`].
    pub(crate) fn args<'a>(&'a self, state: &'a MixerState) -> BlockArgs<'a> {
        let (gate, up) = match &self.mlp.gate_up {
            GateUp::Joined(both) => (both.args(), None),
            GateUp::Apart(gate_proj, up_proj) => (gate_proj.args(), Some(up_proj.args())),
        };
        BlockArgs {
            mixer_norm: &self.input_layernorm,
            mlp_norm: &self.post_attention_layernorm,
            in_proj: self.mixer.in_proj.args(),
            A_log_proj: self.mixer.A_log_proj.as_ref().map(Linear::args),
            mixer: &self.mixer.inner,
            out_proj: self.mixer.out_proj.args(),
            gate,
            up,
            down: self.mlp.down_proj.args(),
            state,
        }
    }

    /// The mixer as a matrix over time (b, h, l, l), of the norm `u` (b, l, d).
    pub(crate) fn matrix(&self, u: &Array, layout: RowLayout<'_>) -> Result<Array> {
        self.mixer.matrix(u, layout)
    }

    /// The arrays of the block.
    pub(crate) fn arrays(&self) -> Vec<&Array> {
        let inner = &self.mixer.inner;
        let mut all = vec![&self.input_layernorm, &self.post_attention_layernorm];
        all.extend([&inner.conv_weight, &inner.D]);
        all.extend(inner.conv_bias.iter().chain(&inner.z_bias));
        all.extend(self.linears().flat_map(Linear::arrays));
        all
    }

    /// The matrices of the block.
    fn linears(&self) -> impl Iterator<Item = &Linear> {
        let (mixer, mlp) = (&self.mixer, &self.mlp);
        let own = [&mixer.in_proj, &mixer.out_proj, &mlp.down_proj].into_iter();
        own.chain(mlp.gate_up.linears()).chain(&mixer.A_log_proj)
    }

    /// Lists what the kernels compute for it.
    pub(crate) fn kernel_checks(&self, config: &Config, dtype: Dtype) -> Vec<Check> {
        let Mixer { dims, activation, inner, .. } = &self.mixer;
        let case = |b, l| Case {
            activation: *activation,
            split_A_log: self.mixer.A_log_proj.is_some(),
            conv_bias: inner.conv_bias.is_some(),
            z_bias: inner.z_bias.is_some(),
            ..Case::new([dims.h, dims.g, dims.p, dims.n, dims.k], b, l).dtype(dtype)
        };
        // A step, short prompts of both sizes that have kernels of their own, chunks, and rows of
        // different lengths.
        let mixers = [case(1, 1), case(1, 3), case(1, 9), case(1, 70)];
        // Metal puts lists of 8 numbers and more elsewhere than shorter ones, in kernels of their own.
        let many = |l: usize| case(8, l).lengths(&[l, 1, 2, 3, l, l - 1, 4, 5]);
        let ragged =
            [case(2, 9).lengths(&[4, 9]), case(2, 70).lengths(&[70, 33]), many(9), many(70)];
        let mixers = mixers.into_iter().chain(ragged).map(Check::Mixer);
        let weights = self.linears().map(Linear::weight);
        let (width, hidden) = (config.d_model, config.mlp.intermediate_size);
        let steps = self.step_checks(config, dtype);
        mixers.chain(kernel_check::layers(dtype, width, hidden, weights)).chain(steps).collect()
    }

    /// Lists the steps of decoding that kernels may compute block by block: those with one scheme of 4
    /// bits in all matrices, and 16-bit activations.
    fn step_checks(&self, config: &Config, dtype: Dtype) -> impl Iterator<Item = Check> {
        let scheme = |linear: &Linear| match linear.weight() {
            Weight::Quantized(quantized) => Some(quantized.scheme),
            _ => None,
        };
        let first = scheme(&self.mixer.in_proj).filter(|first| {
            let alike = self.linears().all(|linear| scheme(linear) == Some(*first));
            alike && first.bits == 4 && first.mode == Mode::Affine && dtype == Dtype::Bfloat16
        });
        let (d, hidden, dims) = (config.d_model, config.mlp.intermediate_size, self.mixer.dims);
        first.into_iter().flat_map(move |Scheme { group_size: group, .. }| {
            [1, 3].map(|b| Check::Blocks(Step { b, d, hidden, dims, group, dtype }))
        })
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
            // Products may give narrower rows, and this is made of plain operations in float32.
            let float = |array: &Array| array.as_dtype(Dtype::Float32);
            let (rows, A_log) = (float(input.rows)?, input.A_log.map(float).transpose()?);
            let input = MixerInput { rows: &rows, A_log: A_log.as_ref(), ..*input };
            Ok(self.backend.mixing_matrix(&input, &self.inner, self.dims, self.activation)?)
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

impl Mlp {
    /// (b, l, d) -> (b, l, d)
    fn forward(&self, x: &Array) -> Result<Array> {
        let gate_up = self.gate_up.forward(x)?; // (b, l, 2 * intermediate_size)
        self.down_proj.forward(&self.backend.swiglu(&gate_up)?)
    }
}
