//! Students on the disk, in the published PyTorch layout.

use std::path::{Path, PathBuf};

use mlx_llamba::files::{Output, Planned, WeightFiles, float_bytes};
use mlx_llamba::{Backend, Checkpoint, Config, Model, floats};
use mlx_rs::Dtype;
use serde_json::json;

use crate::{Error, Parameters, Result};

/// Largest weight file.
const SHARD_BYTES: usize = 4 << 30;

const GENERATION: &str = "generation_config.json";

/// Writes `config.json`, `model.safetensors` with float32 tensors, and `companions` (names and
/// contents, such as those of a tokenizer's files). If they have no `generation_config.json` and
/// the configuration knows how a text ends, there is one that says it. The directory appears whole
/// or not at all; gives its path.
///
/// # Errors
/// [`mlx_llamba::Error::OutputExists`], [`mlx_llamba::Error::Io`];
/// [`mlx_llamba::Error::Tensors`] if the parameters are not the configuration's.
pub fn save(
    config: &Config,
    parameters: &Parameters,
    companions: &[(String, Vec<u8>)],
    output: &Path,
    overwrite: bool,
) -> Result<PathBuf> {
    Model::from_parameters(config, parameters, Dtype::Float32, Backend::PLAIN)?;
    let output = Output::create(output, overwrite)?;
    let tensors = config.tensors();
    let planned = tensors.iter().map(|(name, shape)| {
        let shape = match shape[..] {
            // PyTorch's convolutions have an axis for the channels of a group.
            [channels, k] if name.ends_with("conv1d.weight") => vec![channels, 1, k],
            _ => shape.clone(),
        };
        Planned { name: name.clone(), shape, dtype: safetensors::Dtype::F32 }
    });
    let mut files = WeightFiles::create(output.directory(), planned.collect(), "pt", SHARD_BYTES)?;
    for (name, _) in &tensors {
        if let Some(array) = parameters.get(name) {
            files.append(name, &float_bytes(&floats(array)?))?;
        }
    }
    files.finish()?;
    output.write("config.json", format!("{:#}\n", config.to_json()))?;
    if !config.eos.is_empty() && companions.iter().all(|(name, _)| name != GENERATION) {
        output.write(GENERATION, format!("{:#}\n", json!({ "eos_token_id": config.eos })))?;
    }
    for (name, bytes) in companions {
        output.write(name, bytes)?;
    }
    Ok(output.publish()?)
}

/// Configuration and float32 parameters of a Llamba checkpoint of any layout, if it is dense.
/// Lazy: a tensor is read when its array is evaluated.
///
/// # Errors
/// Those of [`Checkpoint::open`]; [`Error::Quantized`].
pub fn load(path: &Path) -> Result<(Config, Parameters)> {
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
