//! Models with random weights, for measuring speed and memory without a checkpoint.

use std::collections::HashMap;
use std::path::Path;

use mlx_llamba_kernels::Scheme;
use mlx_rs::{Array, Dtype, random};

use crate::checkpoint::{Kind, Slot, slots};
use crate::config::Config;
use crate::error::{Error, Result, TensorProblem};
use crate::weights::Weights;

/// Sizes of the published models.
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
    ///
    /// # Errors
    /// None in practice: it is parsed like any other.
    pub fn config(self) -> Result<Config> {
        let (d_model, n_layer, intermediate_size, tied) = match self {
            Self::Llamba1B => (2048, 16, 8192, true),
            Self::Llamba3B => (3072, 28, 8192, true),
            Self::Llamba8B => (4096, 32, 14336, false),
        };
        let json = serde_json::json!({
            "model_type": "llamba", "vocab_size": 128_256, "tie_embeddings": tied,
            "d_model": d_model, "n_layer": n_layer,
            "mlp_cfg": { "intermediate_size": intermediate_size, "bias": false, "act_fn": "silu" },
            "ssm_cfg": { "d_state": 64, "n_v_heads": 32, "n_qk_heads": 32, "expand": 1,
                         "activation": "identity", "bias": false },
        });
        Config::from_json(Path::new("preset"), &json.to_string())
    }
}

/// Random weights of a given shape.
pub(crate) struct RandomWeights {
    config: Config,
    scheme: Option<Scheme>,
    slots: HashMap<String, Slot>,
}

impl RandomWeights {
    /// All matrices in `scheme`, or dense.
    pub(crate) fn new(config: Config, scheme: Option<Scheme>) -> Self {
        let slots = slots(&config).into_iter().map(|slot| (slot.name.clone(), slot)).collect();
        Self { config, scheme, slots }
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
        let slot = |name: &str| self.slots.get(name).ok_or_else(|| Self::missing(name));
        let matrix = slot(&format!("{prefix}.weight")).ok();
        let quantized = matrix.and_then(|slot| self.scheme(slot.prefix()).map(|s| (slot, s)));
        match (quantized, part) {
            (Some((slot, scheme)), "weight" | "scales" | "biases") => {
                let [out, columns] = slot.shape[..] else {
                    return Err(Self::missing(name));
                };
                let packed = scheme
                    .packed_columns(columns)
                    .map_err(|source| Error::Quantization { tensor: name.to_owned(), source })?;
                let groups = columns / scheme.group_size;
                Ok(match (part, scheme.mode.has_biases()) {
                    // Bit patterns of random floats: as good as any for timing.
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
                let shape = &slot(name)?.shape;
                // Keeps activations of the order of 1, through any width.
                let width = shape.last().copied().unwrap_or(1) as f32;
                let range = if shape.len() == 1 { 1.0 } else { (3.0 / width).sqrt() };
                uniform(-range, range, shape)
            }
        }
    }

    fn scheme(&self, prefix: &str) -> Option<Scheme> {
        let slot = self.slots.get(&format!("{prefix}.weight"))?;
        self.scheme.filter(|_| slot.kind == Kind::Matrix)
    }

    fn contains(&self, name: &str) -> bool {
        self.slots.contains_key(name)
    }

    fn fingerprint(&self) -> Result<String> {
        Ok("random".to_owned())
    }
}
