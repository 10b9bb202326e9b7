//! A Llama's weights and its forward pass.

use std::path::Path;

use mlx_llamba::{Backend, Linear, Matrix, Numerics, TensorProblem, Weight};
use mlx_rs::ops::{concatenate, minimum};
use mlx_rs::{Array, Dtype};

use super::attention::{Attention, Pass, handed_out};
use super::cache::KvCache;
use super::config::LlamaConfig;
use super::mask::{Window, visible};
use crate::error::Result;
use crate::parameters::Parameters;

/// A Llama. Lazy: nothing is evaluated in here.
#[derive(Debug, Clone)]
pub struct Llama {
    config: LlamaConfig,
    compute: Numerics,
    embed_tokens: Matrix,
    layers: Vec<Block>,
    norm: Array,
    /// `None`: the embedding's matrix is the head's.
    lm_head: Option<Matrix>,
    /// Rotary wavelengths, (k / 2,).
    wavelengths: Array,
    window: Option<Window>,
    /// All weights by canonical name, as they were given.
    weights: Vec<(String, Weight)>,
}

/// `x + self_attn(norm(x))`, then `x + mlp(norm(x))`.
#[derive(Debug, Clone)]
struct Block {
    input_layernorm: Array,
    self_attn: Attention,
    post_attention_layernorm: Array,
    mlp: Mlp,
}

/// `down(silu(gate(x)) * up(x))`
#[derive(Debug, Clone)]
struct Mlp {
    backend: Backend,
    gate_proj: Linear,
    up_proj: Linear,
    down_proj: Linear,
}

/// What [`Llama::trace`] is to give beside nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Wanted {
    /// The residual stream before and after every block.
    pub hidden: bool,
    /// The attention matrices.
    pub attention: bool,
    /// The logits.
    pub logits: bool,
}

/// What a forward pass leaves behind.
#[derive(Debug, Clone, Default)]
pub struct Trace {
    /// `n_layer + 1` of (b, l, d) in the dtype of the activations: `hidden[i]` is what block `i`
    /// gets; the last one is what the final norm gets. Empty if not wanted.
    pub hidden: Vec<Array>,
    /// A layer's (b, h, l, l) float32 after the softmax: rows sum to 1, and are 0 at tokens that
    /// the row's token does not see. Empty if not wanted.
    pub attention: Vec<Array>,
    /// (b, l, vocab) float32, of the token after each position.
    pub logits: Option<Array>,
}

/// Gives a tensor by its canonical name.
pub(super) type Lookup<'a> = &'a dyn Fn(&str) -> mlx_llamba::Result<Weight>;

impl Llama {
    /// A Llama of float tensors under their canonical names (see [`LlamaConfig::tensors`]);
    /// activations are in the dtype of the embedding. Cheap; with [`Backend::Plain`] everything
    /// that it computes has gradients.
    ///
    /// # Errors
    /// [`mlx_llamba::Error::Tensors`] names all tensors that are missing, unknown or of the wrong
    /// shape; [`mlx_llamba::Error::Option`] for a dtype that the back end does not take.
    pub fn from_parameters(
        config: &LlamaConfig,
        parameters: &Parameters,
        backend: Backend,
    ) -> Result<Self> {
        let shapes = parameters.iter().map(|(name, array)| {
            let shape = array.shape().iter().map(|&size| size as usize).collect();
            (name.as_str(), shape)
        });
        check_shapes(Path::new("parameters"), config, shapes)?;
        let embedding = &parameters["model.embed_tokens.weight"];
        let compute = Numerics::new(backend, embedding.dtype())?;
        let lookup = |name: &str| match parameters.get(name) {
            Some(array) => Ok(Weight::Dense(array.clone())),
            None => Err(missing(Path::new("parameters"), name)),
        };
        Self::build(config.clone(), compute, &lookup)
    }

    /// Gathers the weights; `lookup` has been checked to know all names, with the right shapes.
    pub(super) fn build(
        config: LlamaConfig,
        compute: Numerics,
        lookup: Lookup<'_>,
    ) -> Result<Self> {
        let mut weights = Vec::new();
        for (name, _) in config.tensors() {
            weights.push((name.clone(), cast(lookup(&name)?, compute)?));
        }
        // In the order of `LlamaConfig::tensors`.
        let mut next = weights.iter();
        let mut take = || next.next().ok_or_else(|| missing(Path::new("weights"), "the last"));
        let vector = |(_, weight): &(String, Weight)| match weight {
            Weight::Dense(array) => array.as_dtype(compute.dtype),
            Weight::Quantized(_) => Err(mlx_rs::error::Exception::custom("a vector of codes")),
        };
        let embed_tokens = take()?;
        let embed_tokens = Matrix::new(&embed_tokens.0, embed_tokens.1.clone(), compute);
        let mut layers = Vec::with_capacity(config.num_hidden_layers);
        for _ in 0..config.num_hidden_layers {
            let mut linear = |bias: bool| -> Result<Linear> {
                let (name, weight) = take()?;
                let matrix = Matrix::new(name, weight.clone(), compute);
                let bias = if bias { Some(vector(take()?)?) } else { None };
                Ok(Linear::new(matrix, bias))
            };
            let (attention_bias, mlp_bias) = (config.attention_bias, config.mlp_bias);
            let self_attn = Attention {
                q_proj: linear(attention_bias)?,
                k_proj: linear(attention_bias)?,
                v_proj: linear(attention_bias)?,
                o_proj: linear(attention_bias)?,
            };
            let mlp = Mlp {
                backend: compute.backend,
                gate_proj: linear(mlp_bias)?,
                up_proj: linear(mlp_bias)?,
                down_proj: linear(mlp_bias)?,
            };
            layers.push(Block {
                self_attn,
                mlp,
                input_layernorm: vector(take()?)?,
                post_attention_layernorm: vector(take()?)?,
            });
        }
        let norm = vector(take()?)?;
        let lm_head = match config.tie_word_embeddings {
            true => None,
            false => {
                let (name, weight) = take()?;
                Some(Matrix::new(name, weight.clone(), compute))
            }
        };
        Ok(Self {
            compute,
            embed_tokens,
            layers,
            norm,
            lm_head,
            wavelengths: config.rope.array(config.head_dim, config.rope_theta),
            window: None,
            weights,
            config,
        })
    }

    /// The same model that attends to a window of its text only. The cache keeps all of it.
    #[must_use]
    pub fn with_window(self, window: Option<Window>) -> Self {
        Self { window, ..self }
    }

    /// Sizes and switches.
    pub fn config(&self) -> &LlamaConfig {
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

    /// All weights by canonical name, as they are stored.
    pub fn weights(&self) -> &[(String, Weight)] {
        &self.weights
    }

    /// Bytes that the weights take in memory.
    pub fn weight_bytes(&self) -> usize {
        self.weights.iter().flat_map(|(_, w)| w.arrays()).map(|array| array.nbytes()).sum()
    }

    /// All tensors as dense float32 arrays by canonical name. Lazy.
    ///
    /// # Errors
    /// What MLX reports.
    pub fn parameters(&self) -> Result<Parameters> {
        let dense = |(name, weight): &(String, Weight)| {
            let array = match weight {
                Weight::Dense(array) => array.as_dtype(Dtype::Float32)?,
                Weight::Quantized(q) => {
                    let dense = q.widened().and_then(|q| q.dequantize(Dtype::Float32));
                    dense.map_err(|source| {
                        let tensor = name.clone();
                        mlx_llamba::Error::Quantization { tensor, source }
                    })?
                }
            };
            Ok((name.clone(), array))
        };
        self.weights.iter().map(dense).collect()
    }

    /// Reads texts from their beginning and gives what is wanted of it. Lazy.
    ///
    /// | arg | shape | dtype |
    /// |---|---|---|
    /// | tokens | (b, l), l >= 1 | integer |
    /// | starts | (b, l), true at the first token of a document: from there nothing earlier is seen | bool |
    ///
    /// Positions go on over the start of a document. Ids past the vocabulary read its last row.
    ///
    /// # Errors
    /// What MLX reports of shapes that do not fit.
    pub fn trace(&self, tokens: &Array, starts: Option<&Array>, wanted: Wanted) -> Result<Trace> {
        let mut trace = Trace::default();
        let mask = visible(tokens.dim(1) as usize, 0, starts, self.window)?;
        let (u, _) = self.read(tokens, mask, None, wanted, &mut trace)?;
        if wanted.logits {
            trace.logits = Some(self.logits(&u)?);
        }
        Ok(trace)
    }

    /// The hidden states after the final norm of tokens (b, l) that follow what `cache` has read:
    /// (b, l, d), and the cache after them. Lazy.
    ///
    /// # Errors
    /// What MLX reports of shapes that do not fit.
    pub fn hidden(&self, tokens: &Array, cache: &KvCache) -> mlx_llamba::Result<(Array, KvCache)> {
        let mask = visible(tokens.dim(1) as usize, cache.read(), None, self.window)?;
        self.read(tokens, mask, Some(cache), Wanted::default(), &mut Trace::default())
    }

    /// The hidden states after the final norm of texts from their beginning: (b, l, d). Arguments
    /// as for [`trace`](Self::trace). Lazy.
    ///
    /// # Errors
    /// As [`trace`](Self::trace).
    pub fn documents(&self, tokens: &Array, starts: Option<&Array>) -> Result<Array> {
        let mask = visible(tokens.dim(1) as usize, 0, starts, self.window)?;
        let (u, _) = self.read(tokens, mask, None, Wanted::default(), &mut Trace::default())?;
        Ok(u)
    }

    /// Hidden states after the final norm (.., d) to logits (.., vocab), float32.
    ///
    /// # Errors
    /// What MLX reports of another last axis.
    pub fn logits(&self, hidden: &Array) -> mlx_llamba::Result<Array> {
        let head = self.lm_head.as_ref().unwrap_or(&self.embed_tokens);
        Ok(head.matmul(hidden)?.as_dtype(Dtype::Float32)?)
    }

    /// The one forward pass: (b, l) to (b, l, d) after the final norm.
    fn read(
        &self,
        tokens: &Array,
        mask: Option<Array>,
        cache: Option<&KvCache>,
        wanted: Wanted,
        trace: &mut Trace,
    ) -> mlx_llamba::Result<(Array, KvCache)> {
        // MLX does not check indices; an id out of range must not read foreign memory.
        let last = Array::from_slice(&[self.config.vocab_size as u32 - 1], &[]);
        let tokens = minimum(tokens.as_dtype(Dtype::Uint32)?, last)?;
        let backend = self.compute.backend;
        let epsilon = self.config.rms_norm_eps as f32;
        let pass = Pass { config: &self.config, wavelengths: &self.wavelengths, mask, cache };
        let mut pairs = Vec::with_capacity(self.layers.len());
        let mut x = self.embed_tokens.rows(&tokens)?; // (b, l, d)
        let mut u = backend.rms_norm(&x, self.norm_before(0), epsilon)?;
        for (i, layer) in self.layers.iter().enumerate() {
            if wanted.hidden {
                trace.hidden.push(x.clone());
            }
            let attended = layer.self_attn.forward(&u, i, &pass)?;
            if wanted.attention {
                trace.attention.push(handed_out(&attended.weights)?);
            }
            pairs.extend(attended.pair);
            (x, u) =
                backend.add_rms_norm(&x, &attended.y, &layer.post_attention_layernorm, epsilon)?;
            let y = layer.mlp.forward(&u)?;
            (x, u) = backend.add_rms_norm(&x, &y, self.norm_before(i + 1), epsilon)?;
        }
        if wanted.hidden {
            trace.hidden.push(x);
        }
        let read = cache.map_or(0, KvCache::read) + tokens.dim(1) as usize;
        Ok((u, KvCache::new(pairs, read)))
    }

    /// The norm before block `i`; after the last block, the final norm.
    fn norm_before(&self, i: usize) -> &Array {
        self.layers.get(i).map_or(&self.norm, |layer| &layer.input_layernorm)
    }
}

impl Mlp {
    /// (b, l, d) -> (b, l, d)
    fn forward(&self, x: &Array) -> mlx_llamba::Result<Array> {
        let gate_up = concatenate(&[self.gate_proj.forward(x)?, self.up_proj.forward(x)?], -1)?;
        self.down_proj.forward(&self.backend.swiglu(&gate_up)?)
    }
}

/// Floats as the back end takes them.
fn cast(weight: Weight, compute: Numerics) -> mlx_rs::error::Result<Weight> {
    Ok(match weight {
        Weight::Dense(array) => Weight::Dense(compute.cast(array)?),
        Weight::Quantized(mut q) => {
            q.scales = compute.cast(q.scales)?;
            q.biases = q.biases.map(|biases| compute.cast(biases)).transpose()?;
            Weight::Quantized(q)
        }
    })
}

/// The error about one tensor that is not there.
fn missing(path: &Path, name: &str) -> mlx_llamba::Error {
    let problems = vec![TensorProblem::Missing { name: name.to_owned(), expected: Vec::new() }];
    mlx_llamba::Error::Tensors { path: path.to_owned(), problems }
}

/// Holds names and shapes against what the configuration asks for; names everything that does not
/// fit.
pub(super) fn check_shapes<'n>(
    path: &Path,
    config: &LlamaConfig,
    found: impl Iterator<Item = (&'n str, Vec<usize>)>,
) -> mlx_llamba::Result<()> {
    let mut found: std::collections::BTreeMap<&str, Vec<usize>> = found.collect();
    let mut problems = Vec::new();
    for (name, expected) in config.tensors() {
        match found.remove(name.as_str()) {
            None => problems.push(TensorProblem::Missing { name, expected }),
            Some(found) if found != expected => {
                problems.push(TensorProblem::Shape { name, found, expected });
            }
            Some(_) => {}
        }
    }
    problems.extend(found.into_keys().map(|name| TensorProblem::Unknown { name: name.to_owned() }));
    if problems.is_empty() {
        return Ok(());
    }
    Err(mlx_llamba::Error::Tensors { path: path.to_owned(), problems })
}
