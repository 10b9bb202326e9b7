//! Saves a Llama as a directory that other tools read.

use std::path::{Path, PathBuf};

use mlx_llamba::files::{Output, Planned, WeightFiles, float_bytes};
use mlx_llamba::floats;
use safetensors::Dtype;

use crate::config::LlamaConfig;
use crate::error::Result;
use crate::parameters::Parameters;

/// Largest weight file.
const SHARD_BYTES: usize = 4 << 30;

/// Writes `config.json`, `model.safetensors` with float32 tensors, and `companions` (names and
/// contents, such as those of a tokenizer's files). The directory appears complete or not at all.
/// Returns its path.
///
/// # Errors
/// [`mlx_llamba::Error::OutputExists`], [`mlx_llamba::Error::Io`]; those of
/// [`Llama::from_parameters`](crate::Llama::from_parameters) if the parameters are not the
/// configuration's.
pub fn save(
    config: &LlamaConfig,
    parameters: &Parameters,
    companions: &[(String, Vec<u8>)],
    output: &Path,
    overwrite: bool,
) -> Result<PathBuf> {
    let shapes = parameters.iter().map(|(name, array)| {
        (name.as_str(), array.shape().iter().map(|&size| size as usize).collect())
    });
    crate::check::check_shapes(output, config, shapes)?;
    let output = Output::create(output, overwrite)?;
    let planned = config.tensors().into_iter();
    let planned = planned.map(|(name, shape)| Planned { name, shape, dtype: Dtype::F32 }).collect();
    let mut files = WeightFiles::create(output.directory(), planned, "pt", SHARD_BYTES)?;
    for (name, array) in parameters {
        files.append(name, &float_bytes(&floats(array)?))?;
    }
    files.finish()?;
    output.write("config.json", format!("{:#}\n", config.to_json()))?;
    for (name, bytes) in companions {
        output.write(name, bytes)?;
    }
    Ok(output.publish()?)
}
