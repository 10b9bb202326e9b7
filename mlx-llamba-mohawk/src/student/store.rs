//! Saves and loads students in the published PyTorch layout.

use std::path::{Path, PathBuf};

use mlx_llamba::files::{Output, TensorHeader, TokenizerFiles, WeightFiles, float_bytes};
use mlx_llamba::kernels::Backend;
use mlx_llamba::mlx::floats;
use mlx_llamba::{Checkpoint, Config, Model};
use mlx_rs::Dtype;
use serde_json::json;

use crate::{Error, Parameters, Result};

/// The largest size of a weight file in bytes.
const SHARD_BYTES: usize = 4 << 30;

const GENERATION: &str = "generation_config.json";

/// Writes `config.json`, `model.safetensors` with float32 tensors, and `companions`. Without a
/// `generation_config.json` among them, one is written if the configuration names the ids that end
/// a text. The directory appears complete or not at all; returns its path.
///
/// # Errors
/// [`mlx_llamba::Error::OutputExists`], [`mlx_llamba::Error::Io`];
/// [`mlx_llamba::Error::Tensors`] if the parameters do not match the configuration.
pub fn save(
    config: &Config,
    parameters: &Parameters,
    companions: &TokenizerFiles,
    output: impl AsRef<Path>,
    overwrite: bool,
) -> Result<PathBuf> {
    Model::from_parameters(config, parameters, Dtype::Float32, Backend::PLAIN)?;
    let output = Output::create(output.as_ref(), overwrite)?;
    let tensors = config.tensors();
    let headers = tensors.iter().map(|(name, shape)| {
        let shape = match shape[..] {
            // PyTorch's convolutions have an axis for the channels of a group.
            [channels, k] if name.ends_with("conv1d.weight") => vec![channels, 1, k],
            _ => shape.clone(),
        };
        TensorHeader { name: name.clone(), shape, dtype: safetensors::Dtype::F32 }
    });
    let mut files = WeightFiles::create(output.directory(), headers.collect(), "pt", SHARD_BYTES)?;
    for (name, _) in &tensors {
        if let Some(array) = parameters.get(name) {
            files.append(name, &float_bytes(&floats(array)?))?;
        }
    }
    files.finish()?;
    output.write("config.json", format!("{:#}\n", config.to_json()))?;
    if !config.eos.is_empty() && companions.get(GENERATION).is_none() {
        output.write(GENERATION, format!("{:#}\n", json!({ "eos_token_id": config.eos })))?;
    }
    output.write_all(companions)?;
    Ok(output.publish()?)
}

/// Loads the configuration and the float32 parameters of a dense Llamba checkpoint of any layout.
/// Lazy: a tensor is read when its array is evaluated.
///
/// # Errors
/// Those of [`Checkpoint::open`]; [`Error::Quantized`].
pub fn load(path: impl AsRef<Path>) -> Result<(Config, Parameters)> {
    let path = path.as_ref();
    let checkpoint = Checkpoint::open(path)?;
    if checkpoint.is_quantized() {
        return Err(Error::Quantized { path: path.to_owned() });
    }
    let mut parameters = Parameters::new();
    for (name, _) in checkpoint.config().tensors() {
        let array = checkpoint.array(&name)?.as_dtype(Dtype::Float32)?;
        parameters.insert(name, array);
    }
    Ok((checkpoint.config().clone(), parameters))
}
