//! Models with random weights of a given shape.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use mlx_llamba::kernels::{Backend, Mode, Scheme};
use mlx_llamba::mlx::Dtype;
use mlx_llamba::random::Preset;
use mlx_llamba::{Config, Model};
use mlx_llamba_teacher::{Llama, LlamaConfig};
use serde_json::{Value, json};

use crate::output::usage;

#[derive(clap::Args)]
pub(super) struct ShapeArgs {
    /// Random weights instead of a model: 1b, 3b or 8b as published, custom, one of the Llamas that
    /// they are made of (llama-3.2-1b, llama-3.2-3b, llama-3.1-8b), or the path of a config.json
    #[arg(long, value_name = "SHAPE", value_parser = parse, conflicts_with_all = ["model", "tokenizer"])]
    shape: Option<Shape>,
    /// Quantize the random weights: bits per weight, in groups of 64
    #[arg(long, requires = "shape")]
    bits: Option<usize>,
    #[command(flatten)]
    sizes: Sizes,
}

/// The options that override sizes of the shape.
#[derive(clap::Args)]
#[group(requires = "shape", multiple = true)]
struct Sizes {
    /// Number of layers
    #[arg(long, value_name = "N")]
    layers: Option<usize>,
    /// Width of the residual stream
    #[arg(long, value_name = "N")]
    width: Option<usize>,
    /// Hidden width of the MLPs [default for a custom shape: 4 x width]
    #[arg(long, value_name = "N")]
    mlp: Option<usize>,
    /// Number of heads of the recurrence [default for a custom shape: width / 64]
    #[arg(long, value_name = "N")]
    heads: Option<usize>,
    /// State dimension of the recurrence [default for a custom shape: 64]
    #[arg(long, value_name = "N")]
    state: Option<usize>,
    /// Vocabulary size [default for a custom shape: 32000]
    #[arg(long, value_name = "N")]
    vocab: Option<usize>,
}

#[derive(Debug, Clone)]
enum Shape {
    Published(Preset, &'static str),
    Llama(mlx_llamba_teacher::Preset, &'static str),
    Custom,
    File(PathBuf),
}

fn parse(text: &str) -> Result<Shape, String> {
    Ok(match text {
        "1b" => Shape::Published(Preset::Llamba1B, "1b"),
        "3b" => Shape::Published(Preset::Llamba3B, "3b"),
        "8b" => Shape::Published(Preset::Llamba8B, "8b"),
        "llama-3.2-1b" => Shape::Llama(mlx_llamba_teacher::Preset::Llama1B, "llama-3.2-1b"),
        "llama-3.2-3b" => Shape::Llama(mlx_llamba_teacher::Preset::Llama3B, "llama-3.2-3b"),
        "llama-3.1-8b" => Shape::Llama(mlx_llamba_teacher::Preset::Llama8B, "llama-3.1-8b"),
        "custom" => Shape::Custom,
        path => match Path::new(path) {
            directory if directory.is_dir() => Shape::File(directory.join("config.json")),
            file if file.exists() => Shape::File(file.to_owned()),
            _ => {
                return Err(
                    "expected 1b, 3b, 8b, custom, llama-3.2-1b, llama-3.2-3b, llama-3.1-8b, \
                            or a config.json that exists"
                        .into(),
                );
            }
        },
    })
}

/// A model with random weights.
pub(super) enum Random {
    Llamba(Model),
    Llama(Llama),
}

impl ShapeArgs {
    /// Returns the model with its name, or `None` without --shape. Its weights are not generated yet.
    pub(super) fn model(
        &self,
        (dtype, backend): (Dtype, Backend),
    ) -> Result<Option<(Random, String)>> {
        let Some(shape) = &self.shape else { return Ok(None) };
        let config = self.config(shape)?;
        let scheme = match (self.bits, &config) {
            (Some(bits), _) => Some(Scheme::new(64, bits, Mode::Affine)?),
            (None, AnyConfig::Llamba(config)) => {
                config.quantization.as_ref().map(|quantization| quantization.scheme)
            }
            (None, AnyConfig::Llama(_)) => None,
        };
        let dense = if dtype == Dtype::Float32 { "float32" } else { "16 bits" };
        let bits =
            scheme.map_or_else(|| dense.to_owned(), |scheme| format!("{} bits", scheme.bits));
        let name = format!("random {}{}, {bits}", shape.name(), self.sizes.describe());
        let model = match config {
            AnyConfig::Llamba(config) => {
                Random::Llamba(Model::random_with_backend(config, scheme, dtype, backend)?)
            }
            AnyConfig::Llama(config) => {
                Random::Llama(Llama::random(config, scheme, dtype, backend)?)
            }
        };
        Ok(Some((model, name)))
    }

    fn config(&self, shape: &Shape) -> Result<AnyConfig> {
        let sizes = &self.sizes;
        let (path, config) = match shape {
            Shape::Published(preset, name) => {
                (format!("--shape {name}"), AnyConfig::Llamba(preset.config()))
            }
            Shape::Llama(preset, name) => {
                (format!("--shape {name}"), AnyConfig::Llama(preset.config()))
            }
            Shape::Custom => {
                let path = "--shape custom".to_owned();
                let config = Config::from_json(Path::new(&path), &sizes.custom()?.to_string())?;
                (path, AnyConfig::Llamba(config))
            }
            Shape::File(file) => {
                let text = mlx_llamba::files::read_text(file)
                    .with_context(|| format!("cannot read {}", file.display()))?;
                let config = match LlamaConfig::from_json(file, &text) {
                    Err(mlx_llamba_teacher::Error::Architecture { .. }) => {
                        AnyConfig::Llamba(Config::from_json(file, &text)?)
                    }
                    config => AnyConfig::Llama(config?),
                };
                (file.display().to_string(), config)
            }
        };
        config.resized(Path::new(&path), sizes)
    }
}

enum AnyConfig {
    Llamba(Config),
    Llama(LlamaConfig),
}

impl AnyConfig {
    /// Returns the configuration with the sizes that were given.
    fn resized(self, path: &Path, sizes: &Sizes) -> Result<Self> {
        Ok(match self {
            Self::Llamba(config) => {
                let json = sizes.replaced(config.to_json(), |size| size.llamba);
                Self::Llamba(Config::from_json(path, &json.to_string())?)
            }
            Self::Llama(config) => {
                if sizes.state.is_some() {
                    usage!("--state is for Llambas: a Llama has a cache of keys and values");
                }
                let mut json = sizes.replaced(config.to_json(), |size| size.llama);
                if let Some(heads) = sizes.heads {
                    let shared = config.num_attention_heads / config.num_key_value_heads;
                    json["num_key_value_heads"] = (heads / shared).max(1).into();
                }
                if sizes.heads.is_some() || sizes.width.is_some() {
                    json["head_dim"] = Value::Null;
                }
                Self::Llama(LlamaConfig::from_json(path, &json.to_string())?)
            }
        })
    }
}

impl Shape {
    fn name(&self) -> String {
        match self {
            Self::Published(_, name) | Self::Llama(_, name) => (*name).to_owned(),
            Self::Custom => "custom".to_owned(),
            Self::File(file) => file.display().to_string(),
        }
    }
}

/// A size: its option, and the places of its value in the configurations.
struct Size {
    name: &'static str,
    value: Option<usize>,
    llamba: &'static [&'static str],
    llama: &'static [&'static str],
}

impl Sizes {
    /// Returns a configuration with the proportions of the published models.
    fn custom(&self) -> Result<Value> {
        let (Some(width), Some(layers)) = (self.width, self.layers) else {
            usage!("--shape custom needs --width and --layers");
        };
        let heads = (width / 64).max(1);
        Ok(json!({
            "model_type": "llamba", "vocab_size": 32_000, "tie_embeddings": true,
            "d_model": width, "n_layer": layers,
            "mlp_cfg": {
                "intermediate_size": width.saturating_mul(4), "bias": false, "act_fn": "silu"
            },
            "ssm_cfg": { "d_state": 64, "n_v_heads": heads, "n_qk_heads": heads, "expand": 1,
                         "activation": "identity", "bias": false },
        }))
    }

    /// Returns the sizes with their options and their fields in the configurations.
    fn named(&self) -> [Size; 6] {
        let size = |name, value, llamba, llama| Size { name, value, llamba, llama };
        [
            size("layers", self.layers, &["/n_layer"], &["/num_hidden_layers"]),
            size("width", self.width, &["/d_model"], &["/hidden_size"]),
            size("mlp", self.mlp, &["/mlp_cfg/intermediate_size"], &["/intermediate_size"]),
            size(
                "heads",
                self.heads,
                &["/ssm_cfg/n_v_heads", "/ssm_cfg/n_qk_heads"],
                &["/num_attention_heads"],
            ),
            size("state", self.state, &["/ssm_cfg/d_state"], &[]),
            size("vocab", self.vocab, &["/vocab_size"], &["/vocab_size"]),
        ]
    }

    /// Returns the configuration with the sizes that were given, at the fields that `of` selects.
    fn replaced(&self, mut json: Value, of: fn(&Size) -> &'static [&'static str]) -> Value {
        for size in self.named() {
            for pointer in of(&size) {
                if let (Some(value), Some(place)) = (size.value, json.pointer_mut(pointer)) {
                    *place = value.into();
                }
            }
        }
        json
    }

    /// Formats the sizes as they were given.
    fn describe(&self) -> String {
        let mut text = String::new();
        for Size { name, value, .. } in self.named() {
            if let Some(value) = value {
                text += &format!(" --{name} {value}");
            }
        }
        text
    }
}
