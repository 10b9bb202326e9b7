//! The model as a function: `(tokens, State) -> (logits, State)`.
//!
//! Source: Llamba (arXiv 2502.14458). Fields carry the names of the published checkpoints.

use mlx_llamba_kernels::{MixerState, MixerWeights, Scheme, mixer};
use mlx_rs::fast::rms_norm;
use mlx_rs::ops::{minimum, sigmoid};
use mlx_rs::{Array, Dtype};

use crate::checkpoint::Checkpoint;
use crate::config::Config;
use crate::error::{Error, Result};
use crate::linear::{Linear, Matrix, optional};
use crate::random::{RandomWeights, Weights};
use crate::state::State;

/// Epsilon of the norms inside blocks, whatever the configuration says.
const BLOCK_NORM_EPSILON: f32 = 1e-5;

/// A Llamba's weights and its forward pass. Lazy: nothing is evaluated in here.
#[derive(Debug, Clone)]
pub struct Model {
    config: Config,
    dtype: Dtype,
    fingerprint: String,
    embedding: Matrix,
    layers: Vec<Block>,
    final_layernorm: Array,
    /// `None`: the embedding's matrix is the head's.
    lm_head: Option<Linear>,
    lm_head_bias: Option<Array>,
}

/// `x + mixer(norm(x))`, then `x + mlp(norm(x))`.
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
    in_proj: Linear,
    /// The rows of `in_proj` that give `A_log`, where they are stored on their own.
    A_log_proj: Option<Linear>,
    inner: MixerWeights,
    out_proj: Linear,
}

/// `down(silu(gate(x)) * up(x))`
#[derive(Debug, Clone)]
struct Mlp {
    gate_proj: Linear,
    up_proj: Linear,
    down_proj: Linear,
}

impl Model {
    /// Builds the graph's weights from a checkpoint, activations in `dtype`. Reads nothing yet:
    /// see [`materialize`](Self::materialize).
    ///
    /// # Errors
    /// [`Error::Option`] for a dtype that is not float32, float16 or bfloat16.
    pub fn new(checkpoint: &Checkpoint, dtype: Dtype) -> Result<Self> {
        Self::load(checkpoint, dtype)
    }

    /// A model with random weights, all matrices in `scheme` or dense: for measuring.
    ///
    /// # Errors
    /// As [`new`](Self::new), and [`Error::Quantization`] if the scheme does not fit.
    pub fn random(config: Config, scheme: Option<Scheme>, dtype: Dtype) -> Result<Self> {
        Self::load(&RandomWeights::new(config, scheme), dtype)
    }

    fn load(checkpoint: &impl Weights, dtype: Dtype) -> Result<Self> {
        if !matches!(dtype, Dtype::Float32 | Dtype::Float16 | Dtype::Bfloat16) {
            return Err(Error::Option {
                option: "dtype",
                value: format!("{dtype:?}"),
                expected: "float32, float16 or bfloat16".into(),
            });
        }
        let config = checkpoint.config().clone();
        let float = |name: &str| -> Result<Array> { Ok(checkpoint.array(name)?.as_dtype(dtype)?) };
        let layers = (0..config.n_layer)
            .map(|i| Block::load(checkpoint, &format!("backbone.layers.{i}"), dtype))
            .collect::<Result<_>>()?;
        let tied = config.tie_embeddings;
        Ok(Self {
            dtype,
            fingerprint: checkpoint.fingerprint()?,
            embedding: Matrix::load(checkpoint, "backbone.embedding", dtype)?,
            layers,
            final_layernorm: float("backbone.final_layernorm.weight")?,
            lm_head: if tied { None } else { Some(Linear::load(checkpoint, "lm_head", dtype)?) },
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
        self.dtype
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
            let linears = [&mixer.in_proj, &mixer.out_proj, &mlp.gate_proj, &mlp.up_proj];
            all.extend(linears.into_iter().flat_map(Linear::arrays));
            all.extend(mlp.down_proj.arrays());
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
        let vocab_size = self.config.vocab_size;
        for row in rows {
            if let Some(position) = row.iter().position(|&id| id as usize >= vocab_size) {
                return Err(Error::TokenOutOfRange { id: row[position], position, vocab_size });
            }
        }
        let l =
            rows.iter().map(|row| row.len()).max().filter(|&l| l > 0).ok_or(Error::EmptyPrompt)?;
        let padding = |row: &[u32]| std::iter::repeat_n(0, l - row.len());
        let ids: Vec<u32> =
            rows.iter().flat_map(|row| row.iter().copied().chain(padding(row))).collect();
        let tokens = Array::from_slice(&ids, &[rows.len() as i32, l as i32]); // (b, l)
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
        let mut layers = Vec::with_capacity(self.layers.len());
        for (layer, state) in self.layers.iter().zip(state.layers()) {
            let (y, state) = layer.forward(&x, lengths, state, &self.config)?;
            x = y;
            layers.push(state);
        }
        let x = rms_norm(&x, Some(&self.final_layernorm), self.config.norm_epsilon as f32)?;
        Ok((x, State::from_layers(layers)))
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
        State::zeros(&self.config, b, self.dtype)
    }
}

impl Block {
    fn load(checkpoint: &impl Weights, prefix: &str, dtype: Dtype) -> Result<Self> {
        let float = |name: &str, dtype: Dtype| -> Result<Array> {
            Ok(checkpoint.array(&format!("{prefix}.{name}"))?.as_dtype(dtype)?)
        };
        let maybe = |name: &str| optional(checkpoint, &format!("{prefix}.{name}"), dtype);
        let linear = |name: &str| Linear::load(checkpoint, &format!("{prefix}.{name}"), dtype);
        Ok(Self {
            input_layernorm: float("input_layernorm.weight", dtype)?,
            mixer: Mixer {
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
                gate_proj: linear("mlp.gate_proj")?,
                up_proj: linear("mlp.up_proj")?,
                down_proj: linear("mlp.down_proj")?,
            },
        })
    }

    /// (b, l, d) -> (b, l, d)
    fn forward(
        &self,
        x: &Array,
        lengths: Option<&Array>,
        state: &MixerState,
        config: &Config,
    ) -> Result<(Array, MixerState)> {
        let u = rms_norm(x, Some(&self.input_layernorm), BLOCK_NORM_EPSILON)?;
        let (y, state) = self.mixer.forward(&u, lengths, state, config)?;
        let x = x.add(y)?;
        let u = rms_norm(&x, Some(&self.post_attention_layernorm), BLOCK_NORM_EPSILON)?;
        Ok((x.add(self.mlp.forward(&u)?)?, state))
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
        let rows = match &self.A_log_proj {
            Some(A_log_proj) => mlx_rs::ops::concatenate(&[rows, A_log_proj.forward(u)?], -1)?,
            None => rows,
        };
        let (dims, activation) = (config.dims(), config.ssm.activation);
        let mixed = mixer(&rows, lengths, state, &self.inner, dims, activation)?;
        Ok((self.out_proj.forward(&mixed.y)?, mixed.state))
    }
}

impl Mlp {
    /// (b, l, d) -> (b, l, d)
    fn forward(&self, x: &Array) -> Result<Array> {
        let gate = self.gate_proj.forward(x)?; // (b, l, intermediate_size)
        let gate = gate.multiply(sigmoid(&gate)?)?;
        self.down_proj.forward(&gate.multiply(self.up_proj.forward(x)?)?)
    }
}
