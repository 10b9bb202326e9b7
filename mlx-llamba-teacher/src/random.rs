//! Llamas with random weights, for benchmarks without a checkpoint.

use std::collections::HashMap;
use std::path::Path;

use mlx_llamba::Error;
use mlx_llamba::kernels::{Backend, Quantized, Scheme, Weight};
use mlx_llamba::linear::DtypePolicy;
use mlx_rs::{Array, Dtype, random};

use crate::check::missing;
use crate::config::LlamaConfig;
use crate::error::Result;
use crate::llama::Llama;
use crate::rope::Rope;

/// The published models that Llambas were distilled from, by size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Preset {
    /// Llama-3.2-1B.
    Llama1B,
    /// Llama-3.2-3B.
    Llama3B,
    /// Llama-3.1-8B, untied.
    Llama8B,
}

impl Preset {
    /// The configuration.
    pub fn config(self) -> LlamaConfig {
        let (hidden_size, num_hidden_layers, intermediate_size, num_attention_heads) = match self {
            Self::Llama1B => (2048, 16, 8192, 32),
            Self::Llama3B => (3072, 28, 8192, 24),
            Self::Llama8B => (4096, 32, 14336, 32),
        };
        LlamaConfig {
            vocab_size: 128_256,
            hidden_size,
            intermediate_size,
            num_hidden_layers,
            num_attention_heads,
            num_key_value_heads: 8,
            head_dim: hidden_size / num_attention_heads,
            rms_norm_eps: 1e-5,
            rope_theta: 500_000.0,
            rope: Rope::Llama3 {
                factor: if self == Self::Llama8B { 8.0 } else { 32.0 },
                low_freq_factor: 1.0,
                high_freq_factor: 4.0,
                original_context: 8192,
            },
            rotary_dim: hidden_size / num_attention_heads,
            no_rope: Vec::new(),
            max_position_embeddings: 131_072,
            tie_word_embeddings: self != Self::Llama8B,
            qkv_bias: false,
            out_bias: false,
            qk_norm: false,
            sliding_window: None,
            mlp_bias: false,
            bos: Some(128_000),
            eos: vec![128_001],
        }
    }
}

impl Llama {
    /// Creates a Llama with random weights, all matrices in `scheme` or dense; activations in `dtype`.
    ///
    /// # Errors
    /// [`Error::Quantization`] if the scheme does not fit, and those of MLX.
    pub fn random(
        config: LlamaConfig,
        scheme: Option<Scheme>,
        dtype: Dtype,
        backend: Backend,
    ) -> Result<Self> {
        let compute = DtypePolicy::new(backend, dtype)?;
        let shapes: HashMap<String, Vec<usize>> = config.tensors().into_iter().collect();
        Self::build(config, compute, &|name| {
            let shape = shapes.get(name).ok_or_else(|| missing(Path::new("weights"), name))?;
            match (&shape[..], scheme) {
                (&[out, columns], Some(scheme)) => codes(name, [out, columns], scheme),
                (&[out, columns], None) => {
                    // Keeps activations near 1 at any width.
                    let range = (3.0 / columns as f32).sqrt();
                    Ok(Weight::Dense(uniform(-range, range, &[out, columns])?.as_dtype(dtype)?))
                }
                _ => Ok(Weight::Dense(uniform(0.9, 1.1, shape)?)),
            }
        })
    }
}

/// A matrix of random codes, in an affine scheme.
fn codes(name: &str, [out, columns]: [usize; 2], scheme: Scheme) -> mlx_llamba::Result<Weight> {
    let packed = scheme
        .packed_columns(columns)
        .map_err(|source| Error::Quantization { tensor: name.to_owned(), source })?;
    let groups = columns / scheme.group_size;
    Ok(Weight::Quantized(Quantized {
        // Bit patterns of random floats are good enough for timing.
        weight: uniform(0.0, 1.0, &[out, packed])?.view_dtype(Dtype::Uint32)?,
        scales: uniform(0.001, 0.002, &[out, groups])?,
        biases: Some(uniform(-0.011, -0.01, &[out, groups])?),
        scheme,
    }))
}

fn uniform(low: f32, high: f32, shape: &[usize]) -> mlx_rs::error::Result<Array> {
    let shape: Vec<i32> = shape.iter().map(|&size| size as i32).collect();
    random::uniform::<_, f32>(low, high, &shape, None)
}
