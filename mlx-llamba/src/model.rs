//! The model as a function: `(tokens, State) -> (logits, State)`.
//!
//! Source: Llamba (arXiv 2502.14458). Fields carry the names of the published checkpoints.

use mlx_llamba_kernels::{Backend, MixerInput, MixerState, MixerWeights, Scheme};
use mlx_rs::ops::{concatenate, minimum};
use mlx_rs::{Array, Dtype};

use crate::checkpoint::Checkpoint;
use crate::config::Config;
use crate::error::Result;
use crate::language;
use crate::linear::{Linear, Matrix, Numerics, optional};
use crate::random::{RandomWeights, Weights};
use crate::state::State;

/// Epsilon of the norms inside blocks, whatever the configuration says.
const BLOCK_NORM_EPSILON: f32 = 1e-5;

/// A Llamba's weights and its forward pass. Lazy: nothing is evaluated in here.
#[derive(Debug, Clone)]
pub struct Model {
    config: Config,
    compute: Numerics,
    fingerprint: String,
    embedding: Matrix,
    layers: Vec<Block>,
    final_layernorm: Array,
    /// `None`: the embedding's matrix is the head's.
    lm_head: Option<Linear>,
    lm_head_bias: Option<Array>,
}

/// `x + mixer(norm(x))`, then `x + mlp(norm(x))`: see [`Model::hidden`].
#[derive(Debug, Clone)]
struct Block {
    input_layernorm: Array,
    mixer: Mixer,
    post_attention_layernorm: Array,
    mlp: Mlp,
}

/// Discrete-Mamba-2 between its two projections.
#[derive(Debug, Clone)]
struct Mixer {
    backend: Backend,
    in_proj: Linear,
    /// The rows of `in_proj` that give `A_log`, where they are stored on their own.
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

/// The two matrices that read the same input.
#[derive(Debug, Clone)]
enum GateUp {
    /// One above the other: one product.
    Joined(Linear),
    /// As they are, where a recipe stores them differently.
    Apart(Linear, Linear),
}

impl Model {
    /// Builds the graph's weights from a checkpoint, activations in `dtype`. Reads nothing yet:
    /// see [`materialize`](Self::materialize).
    ///
    /// # Errors
    /// [`Error::Option`] for a dtype that is not float32, float16 or bfloat16.
    /// [`Error::Backend`] if the environment asks for kernels that there are not.
    pub fn new(checkpoint: &Checkpoint, dtype: Dtype) -> Result<Self> {
        Self::load(checkpoint, dtype, Backend::select(dtype)?)
    }

    /// [`new`](Self::new), computed by `backend` whatever the environment says.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn with_backend(checkpoint: &Checkpoint, dtype: Dtype, backend: Backend) -> Result<Self> {
        Self::load(checkpoint, dtype, backend)
    }

    /// A model with random weights, all matrices in `scheme` or dense: for measuring.
    ///
    /// # Errors
    /// As [`new`](Self::new), and [`Error::Quantization`] if the scheme does not fit.
    pub fn random(config: Config, scheme: Option<Scheme>, dtype: Dtype) -> Result<Self> {
        Self::random_with_backend(config, scheme, dtype, Backend::select(dtype)?)
    }

    /// [`random`](Self::random), computed by `backend` whatever the environment says.
    ///
    /// # Errors
    /// As [`random`](Self::random).
    pub fn random_with_backend(
        config: Config,
        scheme: Option<Scheme>,
        dtype: Dtype,
        backend: Backend,
    ) -> Result<Self> {
        Self::load(&RandomWeights::new(config, scheme), dtype, backend)
    }

    fn load(checkpoint: &impl Weights, dtype: Dtype, backend: Backend) -> Result<Self> {
        let config = checkpoint.config().clone();
        let compute = Numerics::new(backend, dtype)?;
        let float = |name: &str| -> Result<Array> { Ok(checkpoint.array(name)?.as_dtype(dtype)?) };
        let layers = (0..config.n_layer)
            .map(|i| Block::load(checkpoint, &format!("backbone.layers.{i}"), compute))
            .collect::<Result<_>>()?;
        let tied = config.tie_embeddings;
        Ok(Self {
            compute,
            fingerprint: checkpoint.fingerprint()?,
            embedding: Matrix::load(checkpoint, "backbone.embedding", compute)?,
            layers,
            final_layernorm: float("backbone.final_layernorm.weight")?,
            lm_head: if tied { None } else { Some(Linear::load(checkpoint, "lm_head", compute)?) },
            lm_head_bias: if tied { optional(checkpoint, "lm_head.bias", dtype)? } else { None },
            config,
        })
    }

    /// Sizes and switches.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Dtype of the activations.
    pub fn dtype(&self) -> Dtype {
        self.compute.dtype
    }

    /// What computes it.
    pub fn backend(&self) -> Backend {
        self.compute.backend
    }

    /// Identity of the weights; states of other models are refused by it.
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// Reads all weights now, one after the other, so that no two copies of the model ever
    /// exist. `progress` gets the bytes read so far and in all.
    ///
    /// # Errors
    /// [`Error::Mlx`] if a file cannot be read.
    pub fn materialize(&self, mut progress: impl FnMut(usize, usize)) -> Result<()> {
        let weights = self.weights();
        let total = weights.iter().map(|array| array.nbytes()).sum();
        let mut done = 0;
        for array in weights {
            array.eval()?;
            done += array.nbytes();
            progress(done, total);
        }
        Ok(())
    }

    /// Bytes that the weights take in memory.
    pub fn weight_bytes(&self) -> usize {
        self.weights().iter().map(|array| array.nbytes()).sum()
    }

    fn weights(&self) -> Vec<&Array> {
        let mut all = self.embedding.arrays();
        for layer in &self.layers {
            let inner = &layer.mixer.inner;
            all.extend([&layer.input_layernorm, &layer.post_attention_layernorm]);
            all.extend([&inner.conv_weight, &inner.D]);
            all.extend(inner.conv_bias.iter().chain(&inner.z_bias));
            let (mixer, mlp) = (&layer.mixer, &layer.mlp);
            let linears = [&mixer.in_proj, &mixer.out_proj, &mlp.down_proj];
            all.extend(linears.into_iter().chain(mlp.gate_up.linears()).flat_map(Linear::arrays));
            all.extend(mixer.A_log_proj.iter().flat_map(Linear::arrays));
        }
        all.push(&self.final_layernorm);
        all.extend(self.lm_head.iter().flat_map(Linear::arrays).chain(&self.lm_head_bias));
        all
    }

    /// Token ids as an array (b, l), rows padded on the right, and their lengths (b,) where rows
    /// differ.
    ///
    /// # Errors
    /// [`Error::TokenOutOfRange`]; [`Error::EmptyPrompt`] if no row has a token.
    pub fn tokens(&self, rows: &[&[u32]]) -> Result<(Array, Option<Array>)> {
        let tokens = language::tokens(rows, self.config.vocab_size)?; // (b, l)
        let l = tokens.dim(1) as usize;
        let ragged = rows.iter().any(|row| row.len() != l);
        let lengths = ragged.then(|| {
            let lengths: Vec<i32> = rows.iter().map(|row| row.len() as i32).collect();
            Array::from_slice(&lengths, &[rows.len() as i32]) // (b,)
        });
        Ok((tokens, lengths))
    }

    /// The hidden states after the final norm.
    ///
    /// | arg | shape | dtype |
    /// |---|---|---|
    /// | tokens | (b, l), l >= 1 | integer |
    /// | lengths | (b,) tokens of each row that count; the rest is padding | int32 |
    ///
    /// Returns (b, l, d_model) in the activations' dtype, unspecified at padded positions, and
    /// the state after each row's last token. Ids past the vocabulary read its last row.
    ///
    /// # Errors
    /// [`Error::Shape`] if `state` is of another batch size.
    pub fn hidden(
        &self,
        tokens: &Array,
        lengths: Option<&Array>,
        state: &State,
    ) -> Result<(Array, State)> {
        // MLX does not check indices; an id out of range must not read foreign memory.
        let last = Array::from_slice(&[self.config.padded_vocab() as u32 - 1], &[]);
        let tokens = minimum(tokens.as_dtype(Dtype::Uint32)?, last)?;
        let mut x = self.embedding.rows(&tokens)?; // (b, l, d)
        let (weight, epsilon) = self.norm(0);
        let mut u = self.compute.backend.rms_norm(&x, weight, epsilon)?;
        let mut layers = Vec::with_capacity(self.layers.len());
        for (i, (layer, state)) in self.layers.iter().zip(state.layers()).enumerate() {
            let (y, state) = layer.mixer.forward(&u, lengths, state, &self.config)?;
            (x, u) =
                self.add_norm(&x, &y, (&layer.post_attention_layernorm, BLOCK_NORM_EPSILON))?;
            let y = layer.mlp.forward(&u)?;
            (x, u) = self.add_norm(&x, &y, self.norm(i + 1))?;
            layers.push(state);
        }
        Ok((u, State::from_layers(layers)))
    }

    /// Weight and epsilon of the norm before block `i`; after the last block, the final norm.
    fn norm(&self, i: usize) -> (&Array, f32) {
        match self.layers.get(i) {
            Some(layer) => (&layer.input_layernorm, BLOCK_NORM_EPSILON),
            None => (&self.final_layernorm, self.config.norm_epsilon as f32),
        }
    }

    /// A residual connection and the norm that follows it: both in one operation.
    fn add_norm(&self, x: &Array, y: &Array, norm: (&Array, f32)) -> Result<(Array, Array)> {
        Ok(self.compute.backend.add_rms_norm(x, y, norm.0, norm.1)?)
    }

    /// Hidden states (.., d_model) to logits (.., padded_vocab), float32.
    ///
    /// # Errors
    /// [`Error::Mlx`] if the last axis is not `d_model`.
    pub fn head(&self, hidden: &Array) -> Result<Array> {
        let logits = match &self.lm_head {
            Some(lm_head) => lm_head.forward(hidden)?,
            None => self.embedding.matmul(hidden)?,
        };
        let logits = match &self.lm_head_bias {
            Some(bias) => logits.add(bias)?,
            None => logits,
        };
        Ok(logits.as_dtype(Dtype::Float32)?)
    }

    /// [`hidden`](Self::hidden), then [`head`](Self::head): logits (b, l, padded_vocab) of the
    /// token after each position, float32.
    ///
    /// # Errors
    /// As those two.
    pub fn forward(
        &self,
        tokens: &Array,
        lengths: Option<&Array>,
        state: &State,
    ) -> Result<(Array, State)> {
        let (hidden, state) = self.hidden(tokens, lengths, state)?;
        Ok((self.head(&hidden)?, state))
    }

    /// The state of `b` sequences before their first token.
    ///
    /// # Errors
    /// [`Error::Mlx`] if the batch is too large for memory.
    pub fn state(&self, b: usize) -> Result<State> {
        State::zeros(&self.config, b, self.compute.dtype)
    }
}

impl Block {
    fn load(checkpoint: &impl Weights, prefix: &str, compute: Numerics) -> Result<Self> {
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
}

impl Mixer {
    /// (b, l, d) -> (b, l, d)
    fn forward(
        &self,
        u: &Array,
        lengths: Option<&Array>,
        state: &MixerState,
        config: &Config,
    ) -> Result<(Array, MixerState)> {
        let rows = self.in_proj.forward(u)?; // (b, l, in_proj_dim), or without A_log
        let A_log = self.A_log_proj.as_ref().map(|proj| proj.forward(u)).transpose()?; // (b, l, h)
        let input = MixerInput { rows: &rows, A_log: A_log.as_ref(), lengths };
        let (dims, activation) = (config.dims(), config.ssm.activation);
        let mixed = self.backend.mixer(&input, state, &self.inner, dims, activation)?;
        Ok((self.out_proj.forward(&mixed.y)?, mixed.state))
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
