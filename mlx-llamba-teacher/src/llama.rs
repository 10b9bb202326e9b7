//! A Llama's weights.

use std::path::Path;

use mlx_llamba::kernel_check;
use mlx_llamba::kernels::check::Check;
use mlx_llamba::kernels::{Backend, Quantized, Weight};
use mlx_llamba::linear::{DtypePolicy, GateUp, Linear, Matrix};
use mlx_rs::{Array, Dtype};

use crate::attention::Attention;
use crate::check::{check_shapes, missing};
use crate::config::LlamaConfig;
use crate::error::Result;
use crate::mask::Window;
use crate::parameters::Parameters;

/// A Llama. Lazy: nothing is evaluated in here.
#[derive(Debug, Clone)]
pub struct Llama {
    pub(crate) config: LlamaConfig,
    pub(crate) compute: DtypePolicy,
    pub(crate) embed_tokens: Matrix,
    pub(crate) layers: Vec<Block>,
    pub(crate) norm: Array,
    /// `None`: the embedding's matrix is the head's.
    pub(crate) lm_head: Option<Matrix>,
    /// Rotary wavelengths within the context, (k / 2,).
    pub(crate) wavelengths: Array,
    pub(crate) window: Option<Window>,
    /// All weights by canonical name, as they were given.
    pub(crate) weights: Vec<(String, Weight)>,
}

/// `x + self_attn(norm(x))`, then `x + mlp(norm(x))`.
#[derive(Debug, Clone)]
pub(crate) struct Block {
    pub(crate) input_layernorm: Array,
    pub(crate) self_attn: Attention,
    pub(crate) post_attention_layernorm: Array,
    pub(crate) mlp: Mlp,
}

/// `down(silu(gate(x)) * up(x))`
#[derive(Debug, Clone)]
pub(crate) struct Mlp {
    pub(crate) backend: Backend,
    pub(crate) gate_up: GateUp,
    pub(crate) down_proj: Linear,
}

/// Gives a tensor by its canonical name.
pub(crate) type Lookup<'a> = &'a dyn Fn(&str) -> mlx_llamba::Result<Weight>;

impl Llama {
    /// A Llama of float tensors under their canonical names (see [`LlamaConfig::tensors`]);
    /// activations are in the dtype of the embedding. Cheap; with [`Backend::PLAIN`] everything
    /// that it computes has gradients.
    ///
    /// # Errors
    /// [`mlx_llamba::Error::Tensors`] names all tensors that are missing, unknown or of the wrong
    /// shape; [`mlx_llamba::Error::Argument`] for a dtype that the back end does not take.
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
        let compute = DtypePolicy::new(backend, embedding.dtype())?;
        let lookup = |name: &str| match parameters.get(name) {
            Some(array) => Ok(Weight::Dense(array.clone())),
            None => Err(missing(Path::new("parameters"), name)),
        };
        Self::build(config.clone(), compute, &lookup)
    }

    /// Gathers the weights; `lookup` has been checked to know all names, with the right shapes.
    pub(crate) fn build(
        config: LlamaConfig,
        compute: DtypePolicy,
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
            _ => Err(mlx_rs::error::Exception::custom("a vector of codes")),
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
            let (qkv_bias, out_bias, mlp_bias) =
                (config.qkv_bias, config.out_bias, config.mlp_bias);
            let mut self_attn = Attention {
                q_proj: linear(qkv_bias)?,
                k_proj: linear(qkv_bias)?,
                v_proj: linear(qkv_bias)?,
                o_proj: linear(out_bias)?,
                qk_norm: None,
            };
            let mlp = Mlp {
                backend: compute.backend,
                gate_up: GateUp::Apart(linear(mlp_bias)?, linear(mlp_bias)?),
                down_proj: linear(mlp_bias)?,
            };
            if config.qk_norm {
                self_attn.qk_norm = Some((vector(take()?)?, vector(take()?)?));
            }
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
            wavelengths: config.rope.array(config.rotary_dim, config.rope_theta, 0),
            window: config.sliding_window.map(|size| Window { size, sinks: 0 }),
            weights,
            config,
        })
    }

    /// Limits attention to a window of the text, in place of the model's own if it has one. `None`
    /// changes nothing. The cache keeps the whole text.
    #[must_use]
    pub fn with_window(self, window: Option<Window>) -> Self {
        Self { window: window.or(self.window), ..self }
    }

    /// Sizes and switches.
    pub fn config(&self) -> &LlamaConfig {
        &self.config
    }

    /// Dtype of the activations.
    pub fn dtype(&self) -> Dtype {
        self.compute.dtype
    }

    /// The back end.
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

    /// Bytes of weights that one step of decoding reads: all, but of an embedding that is not the
    /// head too only the rows of its tokens, which are not counted.
    pub fn weight_bytes_per_step(&self) -> usize {
        let embedding: usize = self.embed_tokens.arrays().iter().map(|array| array.nbytes()).sum();
        self.weight_bytes() - if self.lm_head.is_some() { embedding } else { 0 }
    }

    /// All tensors as dense float32 arrays by canonical name. Lazy.
    ///
    /// # Errors
    /// Those of MLX.
    pub fn parameters(&self) -> Result<Parameters> {
        let dense = |(name, weight): &(String, Weight)| Ok((name.clone(), dense(name, weight)?));
        self.weights.iter().map(dense).collect()
    }

    /// The same model with dense matrices in the dtype of the activations, those of gates and of what they
    /// multiply joined: more memory, and on GPUs faster where many tokens are read at once. Lazy.
    ///
    /// # Errors
    /// Those of MLX.
    pub fn dequantized(&self) -> Result<Self> {
        let is_dense = self.weights.iter().all(|(_, weight)| matches!(weight, Weight::Dense(_)));
        let mut model = match is_dense {
            true => self.clone(),
            false => self.rebuilt(self.compute, |name, weight| {
                Ok(Weight::Dense(dense(name, weight)?.as_dtype(self.compute.dtype)?))
            })?,
        };
        for (i, layer) in model.layers.iter_mut().enumerate() {
            let GateUp::Apart(gate, up) = &layer.mlp.gate_up else { continue };
            layer.mlp.gate_up = GateUp::new(gate.clone(), up.clone())?;
            // The parts are views of the whole, so that memory has each weight once.
            let GateUp::Joined(both) = &layer.mlp.gate_up else { continue };
            let Some((gate, up)) = both.split(self.config.intermediate_size)? else { continue };
            for (part, linear) in [("gate", gate), ("up", up)] {
                let name = format!("model.layers.{i}.mlp.{part}_proj.weight");
                let stored = model.weights.iter_mut().find(|(found, _)| *found == name);
                if let Some((_, weight)) = stored {
                    *weight = linear.weight().clone();
                }
            }
        }
        Ok(model)
    }

    /// The same model on another back end for the same device.
    ///
    /// # Errors
    /// Those of MLX.
    pub fn with_backend(&self, backend: Backend) -> Result<Self> {
        let compute = DtypePolicy::new(backend, self.compute.dtype)?;
        self.rebuilt(compute, |_, weight| Ok(weight.clone()))
    }

    /// Lists what the kernels compute for this model, for
    /// [`KernelCheck`](kernel_check::KernelCheck).
    pub fn kernel_checks(&self) -> Vec<Check> {
        let is_matrix = |weight: &&Weight| weight.arrays()[0].ndim() > 1;
        let of_layer = |name: &str| name.starts_with("model.layers.0.") || name == "lm_head.weight";
        let own = self.weights.iter().filter(|(name, _)| of_layer(name)).map(|(_, weight)| weight);
        let tied = self.lm_head.is_none().then(|| self.embed_tokens.weight());
        let weights = own.filter(is_matrix).chain(tied);
        let LlamaConfig { hidden_size, intermediate_size, .. } = self.config;
        let dtype = self.compute.dtype;
        let mut all = kernel_check::layers(dtype, hidden_size, intermediate_size, weights);
        all.push(Check::Draw { vocab: self.config.vocab_size, dtype: Dtype::Float32 });
        all
    }

    /// The model of changed weights.
    fn rebuilt(
        &self,
        compute: DtypePolicy,
        change: impl Fn(&str, &Weight) -> mlx_llamba::Result<Weight>,
    ) -> Result<Self> {
        let lookup = |wanted: &str| {
            let (name, weight) = (self.weights.iter())
                .find(|(name, _)| name == wanted)
                .ok_or_else(|| missing(Path::new("weights"), wanted))?;
            change(name, weight)
        };
        let model = Self::build(self.config.clone(), compute, &lookup)?;
        Ok(Self { window: self.window, ..model })
    }
}

/// A tensor as a dense float32 array. Lazy.
pub(crate) fn dense(name: &str, weight: &Weight) -> mlx_llamba::Result<Array> {
    let codes = |q: &Quantized| {
        let dense = q.widened().and_then(|q| q.dequantize(Dtype::Float32));
        dense.map_err(|source| {
            let tensor = name.to_owned();
            mlx_llamba::Error::Quantization { tensor, source }
        })
    };
    match weight {
        Weight::Dense(array) => Ok(array.as_dtype(Dtype::Float32)?),
        Weight::Quantized(q) => codes(q),
        Weight::Packed(packed) => codes(&packed.unpacked()?),
    }
}

/// A weight as the back end takes it.
fn cast(weight: Weight, compute: DtypePolicy) -> mlx_rs::error::Result<Weight> {
    let weight = match weight {
        Weight::Dense(array) => return Ok(Weight::Dense(compute.cast(array)?)),
        Weight::Packed(packed) if compute.backend.reads_stored_floats() => {
            return Ok(Weight::Packed(packed));
        }
        Weight::Packed(packed) => packed.unpacked()?,
        Weight::Quantized(stored) => stored,
    };
    compute.backend.arrange(Weight::Quantized(Quantized {
        scales: compute.cast(weight.scales)?,
        biases: weight.biases.map(|biases| compute.cast(biases)).transpose()?,
        ..weight
    }))
}
