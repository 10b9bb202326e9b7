//! Models with random weights of a given shape.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use mlx_llamba::kernels::{Backend, Mode, Scheme};
use mlx_llamba::mlx::Dtype;
use mlx_llamba::random::Preset;
use mlx_llamba::{Config, Model};
use serde_json::{Value, json};

use crate::progress::{Progress, Unit};

#[derive(clap::Args)]
pub(super) struct ShapeArgs {
    /// Random weights instead of a model: 1b, 3b or 8b as published, custom, or the path of a
    /// config.json
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
    Custom,
    File(PathBuf),
}

fn parse(text: &str) -> Result<Shape, String> {
    Ok(match text {
        "1b" => Shape::Published(Preset::Llamba1B, "1b"),
        "3b" => Shape::Published(Preset::Llamba3B, "3b"),
        "8b" => Shape::Published(Preset::Llamba8B, "8b"),
        "custom" => Shape::Custom,
        path => match Path::new(path) {
            directory if directory.is_dir() => Shape::File(directory.join("config.json")),
            file if file.exists() => Shape::File(file.to_owned()),
            _ => return Err("expected 1b, 3b, 8b, custom, or a config.json that exists".into()),
        },
    })
}

impl ShapeArgs {
    /// Returns the model with its name, or `None` without --shape. `check` sees the model before its
    /// weights are generated.
    pub(super) fn model(
        &self,
        (dtype, backend): (Dtype, Backend),
        check: impl Fn(&Model) -> Result<()>,
    ) -> Result<Option<(Model, String)>> {
        let Some(shape) = &self.shape else { return Ok(None) };
        let config = self.config(shape)?;
        let scheme = match self.bits {
            Some(bits) => Some(Scheme::new(64, bits, Mode::Affine)?),
            None => config.quantization.as_ref().map(|quantization| quantization.scheme),
        };
        let dense = if dtype == Dtype::Float32 { "float32" } else { "16 bits" };
        let bits =
            scheme.map_or_else(|| dense.to_owned(), |scheme| format!("{} bits", scheme.bits));
        let name = format!("random {}{}, {bits}", shape.name(), self.sizes.describe());
        let model = Model::random_with_backend(config, scheme, dtype, backend)?;
        check(&model).with_context(|| format!("{name} does not fit"))?;
        let progress = Progress::new("generating weights", Unit::Bytes);
        model.materialize(&mut progress.callback())?;
        Ok(Some((model, name)))
    }

    fn config(&self, shape: &Shape) -> Result<Config> {
        let sizes = &self.sizes;
        let (path, mut json) = match shape {
            Shape::Published(preset, name) => {
                (format!("--shape {name}"), preset.config().to_json())
            }
            Shape::Custom => ("--shape custom".to_owned(), sizes.custom()?),
            Shape::File(file) => {
                let text = std::fs::read_to_string(file)
                    .with_context(|| format!("cannot read {}", file.display()))?;
                let path = file.display().to_string();
                (path, Config::from_json(file, &text)?.to_json())
            }
        };
        sizes.replace(&mut json);
        Ok(Config::from_json(Path::new(&path), &json.to_string())?)
    }
}

impl Shape {
    fn name(&self) -> String {
        match self {
            Self::Published(_, name) => (*name).to_owned(),
            Self::Custom => "custom".to_owned(),
            Self::File(file) => file.display().to_string(),
        }
    }
}

impl Sizes {
    /// Returns a configuration with the proportions of the published models.
    fn custom(&self) -> Result<Value> {
        let (Some(width), Some(layers)) = (self.width, self.layers) else {
            bail!("--shape custom needs --width and --layers");
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

    /// Returns each size with its option and its fields in the configuration.
    fn named(&self) -> [(&'static str, Option<usize>, &'static [&'static str]); 6] {
        [
            ("layers", self.layers, &["/n_layer"]),
            ("width", self.width, &["/d_model"]),
            ("mlp", self.mlp, &["/mlp_cfg/intermediate_size"]),
            ("heads", self.heads, &["/ssm_cfg/n_v_heads", "/ssm_cfg/n_qk_heads"]),
            ("state", self.state, &["/ssm_cfg/d_state"]),
            ("vocab", self.vocab, &["/vocab_size"]),
        ]
    }

    fn replace(&self, json: &mut Value) {
        for (_, size, pointers) in self.named() {
            for pointer in pointers {
                if let (Some(size), Some(place)) = (size, json.pointer_mut(pointer)) {
                    *place = size.into();
                }
            }
        }
    }

    /// Formats the sizes as they were given.
    fn describe(&self) -> String {
        let mut text = String::new();
        for (name, size, _) in self.named() {
            if let Some(size) = size {
                text += &format!(" --{name} {size}");
            }
        }
        text
    }
}
