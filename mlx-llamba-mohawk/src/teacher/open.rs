//! Llamas in directories as Hugging Face's.

use std::collections::BTreeSet;
use std::io::Read;
use std::path::Path;

use mlx_llamba::files::TensorFiles;
use mlx_llamba::{Backend, Error, Numerics, TensorProblem, Weight};
use mlx_rs::Dtype;

use super::config::LlamaConfig;
use super::gguf::{self, MAGIC};
use super::llama::{Llama, check_shapes};
use crate::error::Result;

impl Llama {
    /// Opens a directory with a `config.json` and safetensors files, or a GGUF file, activations
    /// in `dtype`. Floats are read when they are first evaluated, see
    /// [`materialize`](Self::materialize); the quantized matrices of a GGUF file are read now and
    /// stay quantized.
    ///
    /// # Errors
    /// [`Architecture`](crate::Error::Architecture), [`Config`](crate::Error::Config),
    /// [`Gguf`](crate::Error::Gguf), [`GgufType`](crate::Error::GgufType), and those of
    /// [`TensorFiles::open`] and [`Llama::from_parameters`].
    pub fn open(path: impl AsRef<Path>, dtype: Dtype, backend: Backend) -> Result<Self> {
        let (path, compute) = (path.as_ref(), Numerics::new(backend, dtype)?);
        if is_gguf(path) { gguf::open(path, compute) } else { open_directory(path, compute) }
    }

    /// Reads all weights now. `progress` gets the bytes read so far and in all.
    ///
    /// # Errors
    /// [`Error::Mlx`] if a file cannot be read.
    pub fn materialize(&self, mut progress: impl FnMut(usize, usize)) -> Result<()> {
        let total = self.weight_bytes();
        let mut done = 0;
        for array in self.weights().iter().flat_map(|(_, weight)| weight.arrays()) {
            array.eval()?;
            done += array.nbytes();
            progress(done, total);
        }
        Ok(())
    }
}

/// True for a file that calls itself GGUF, by its first bytes or by its name.
pub(super) fn is_gguf(path: &Path) -> bool {
    let mut start = [0; 4];
    let mut begins = || {
        let read = std::fs::File::open(path).and_then(|mut file| file.read_exact(&mut start));
        read.is_ok() && start == *MAGIC
    };
    path.is_file() && (path.extension().is_some_and(|e| e == "gguf") || begins())
}

fn open_directory(path: &Path, compute: Numerics) -> Result<Llama> {
    let files = TensorFiles::open(path)?;
    let Some((config_path, text)) = files.config() else {
        let reason = "there is no config.json".to_owned();
        return Err(Error::NotACheckpoint { path: path.to_owned(), reason }.into());
    };
    let config = LlamaConfig::from_json(config_path, text)?;
    let ignored = ignored(&files, &config);
    let kept = || files.tensors().filter(|(name, ..)| !ignored.contains(name));
    check_shapes(path, &config, kept().map(|(name, _, shape)| (name, shape.to_vec())))?;
    let problems: Vec<_> = kept().filter_map(|(name, dtype, _)| check_dtype(name, dtype)).collect();
    if !problems.is_empty() {
        return Err(Error::Tensors { path: path.to_owned(), problems }.into());
    }
    Llama::build(config, compute, &|name| Ok(Weight::Dense(files.array(name)?)))
}

fn check_dtype(name: &str, dtype: safetensors::Dtype) -> Option<TensorProblem> {
    use safetensors::Dtype::{BF16, F16, F32};
    (!matches!(dtype, F32 | F16 | BF16)).then(|| TensorProblem::Dtype {
        name: name.to_owned(),
        found: dtype.to_string(),
        expected: "F32, F16 or BF16".into(),
    })
}

/// Tensors that some tools write and that say nothing new: rotary frequencies, and a tied head
/// that is the embedding's to the bit.
fn ignored<'f>(files: &'f TensorFiles, config: &LlamaConfig) -> BTreeSet<&'f str> {
    let head = "lm_head.weight";
    let twice = config.tie_word_embeddings
        && files.bytes(head).is_some()
        && files.bytes(head) == files.bytes("model.embed_tokens.weight");
    let names = files.tensors().map(|(name, ..)| name);
    names.filter(|&name| name.ends_with("rotary_emb.inv_freq") || (name == head && twice)).collect()
}
