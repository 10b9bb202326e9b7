//! Saves a Llama as a directory that other tools read.

use std::path::{Path, PathBuf};

use mlx_llamba::files::{Output, TensorHeader, TokenizerFiles, WeightFiles, float_bytes};
use mlx_llamba::mlx::floats;
use safetensors::Dtype;

use crate::config::LlamaConfig;
use crate::error::Result;
use crate::parameters::Parameters;

/// The largest size of a weight file in bytes.
const SHARD_BYTES: usize = 4 << 30;

/// Writes `config.json`, `model.safetensors` with float32 tensors, and `companions`. The directory
/// appears complete or not at all; returns its path.
///
/// # Errors
/// [`mlx_llamba::Error::OutputExists`], [`mlx_llamba::Error::Io`]; those of
/// [`Llama::from_parameters`](crate::Llama::from_parameters) if the parameters are not the
/// configuration's.
pub fn save(
    config: &LlamaConfig,
    parameters: &Parameters,
    companions: &TokenizerFiles,
    output: impl AsRef<Path>,
    overwrite: bool,
) -> Result<PathBuf> {
    let output = output.as_ref();
    let shapes = parameters.iter().map(|(name, array)| {
        (name.as_str(), array.shape().iter().map(|&size| size as usize).collect())
    });
    crate::check::check_shapes(output, config, shapes)?;
    let output = Output::create(output, overwrite)?;
    let header = |(name, shape)| TensorHeader { name, shape, dtype: Dtype::F32 };
    let headers = config.tensors().into_iter().map(header).collect();
    let mut files = WeightFiles::create(output.directory(), headers, "pt", SHARD_BYTES)?;
    for (name, array) in parameters {
        files.append(name, &float_bytes(&floats(array)?))?;
    }
    files.finish()?;
    output.write("config.json", format!("{:#}\n", config.to_json()))?;
    output.write_all(companions)?;
    Ok(output.publish()?)
}
