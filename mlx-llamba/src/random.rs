//! Models with random weights, for benchmarks without a checkpoint.

use std::collections::HashMap;

use mlx_llamba_kernels::{Activation, Scheme};
use mlx_rs::{Array, Dtype, random};

use crate::config::{Config, Mlp, Ssm, TensorSpec, specs};
use crate::error::{Error, Result, TensorProblem};
use crate::weights::Weights;

/// The published models, by size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Preset {
    /// Llamba-1B.
    Llamba1B,
    /// Llamba-3B.
    Llamba3B,
    /// Llamba-8B, untied.
    Llamba8B,
}

impl Preset {
    /// The configuration.
    pub fn config(self) -> Config {
        let (d_model, n_layer, intermediate_size, tie_embeddings) = match self {
            Self::Llamba1B => (2048, 16, 8192, true),
            Self::Llamba3B => (3072, 28, 8192, true),
            Self::Llamba8B => (4096, 32, 14336, false),
        };
        Config {
            vocab_size: 128_256,
            pad_vocab_size_multiple: 8,
            tie_embeddings,
            lm_head_bias: false,
            d_model,
            n_layer,
            norm_epsilon: 1e-5,
            mlp: Mlp { intermediate_size, bias: false },
            ssm: Ssm {
                d_state: 64,
                n_v_heads: 32,
                n_qk_heads: 32,
                expand: 1,
                chunk_size: 128,
                d_conv: 4,
                conv_bias: true,
                bias: false,
                activation: Activation::Identity,
            },
            quantization: None,
            split_a_log: false,
            eos: Vec::new(),
            tokenizer: None,
        }
    }
}

/// Random weights of a given shape.
pub(crate) struct RandomWeights {
    config: Config,
    scheme: Option<Scheme>,
    specs: HashMap<String, TensorSpec>,
}

impl RandomWeights {
    /// Weights for `config`, with all matrices in `scheme`, or dense.
    pub(crate) fn new(config: Config, scheme: Option<Scheme>) -> Self {
        let specs = specs(&config).into_iter().map(|spec| (spec.name.clone(), spec)).collect();
        Self { config, scheme, specs }
    }

    fn missing(name: &str) -> Error {
        let problems = vec![TensorProblem::Unknown { name: name.to_owned() }];
        Error::Tensors { path: "random weights".into(), problems }
    }
}

impl Weights for RandomWeights {
    fn config(&self) -> &Config {
        &self.config
    }

    fn array(&self, name: &str) -> Result<Array> {
        let (prefix, part) = name.rsplit_once('.').unwrap_or((name, ""));
        let uniform = |low: f32, high: f32, shape: &[usize]| -> Result<Array> {
            let shape: Vec<i32> = shape.iter().map(|&s| s as i32).collect();
            Ok(random::uniform::<_, f32>(low, high, &shape, None)?)
        };
        let spec = |name: &str| self.specs.get(name).ok_or_else(|| Self::missing(name));
        let matrix = spec(&format!("{prefix}.weight")).ok();
        let quantized = matrix.and_then(|spec| self.scheme(spec.prefix()).map(|s| (spec, s)));
        match (quantized, part) {
            (Some((spec, scheme)), "weight" | "scales" | "biases") => {
                let [out, columns] = spec.shape[..] else {
                    return Err(Self::missing(name));
                };
                let packed = scheme
                    .packed_columns(columns)
                    .map_err(|source| Error::Quantization { tensor: name.to_owned(), source })?;
                let groups = columns / scheme.group_size;
                Ok(match (part, scheme.mode.has_biases()) {
                    // Bit patterns of random floats are good enough for timing.
                    ("weight", _) => {
                        uniform(0.0, 1.0, &[out, packed])?.view_dtype(Dtype::Uint32)?
                    }
                    // Codes of small powers of two.
                    (_, false) => uniform(110.0, 112.0, &[out, groups])?.as_dtype(Dtype::Uint8)?,
                    ("scales", true) => uniform(0.001, 0.002, &[out, groups])?,
                    (_, true) => uniform(-0.011, -0.01, &[out, groups])?,
                })
            }
            _ => {
                let shape = &spec(name)?.shape;
                // Keeps activations near 1 at any width.
                let width = shape.last().copied().unwrap_or(1) as f32;
                let range = if shape.len() == 1 { 1.0 } else { (3.0 / width).sqrt() };
                uniform(-range, range, shape)
            }
        }
    }

    fn scheme(&self, prefix: &str) -> Option<Scheme> {
        let spec = self.specs.get(&format!("{prefix}.weight"))?;
        self.scheme.filter(|_| spec.is_matrix())
    }

    fn contains(&self, name: &str) -> bool {
        self.specs.contains_key(name)
    }

    fn fingerprint(&self) -> String {
        "random".to_owned()
    }
}
