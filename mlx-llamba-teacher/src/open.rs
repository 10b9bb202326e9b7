//! Opens Llamas: directories in Hugging Face's layout, and GGUF files.

use std::io::Read;
use std::path::Path;

use mlx_llamba::Error;
use mlx_llamba::files::{TensorFiles, json};
use mlx_llamba::kernels::{Backend, Weight};
use mlx_llamba::linear::DtypePolicy;
use mlx_llamba::progress::{OnProgress, Progress};
use mlx_rs::Dtype;
use serde_json::Value;

use crate::config::LlamaConfig;
use crate::error::Result;
use crate::gguf::{Gguf, MAGIC};
use crate::llama::Llama;
use crate::stored::Stored;

/// A Llama's files, with valid headers.
pub(crate) enum Files {
    Directory(Stored),
    Gguf(Gguf),
}

impl Llama {
    /// Opens a directory with a `config.json` and safetensors files, or a GGUF file, activations
    /// in `dtype`. Floats are read when they are first evaluated, see
    /// [`materialize`](Self::materialize), and so are matrices that `mlx-lm` quantized; the quantized
    /// matrices of a GGUF file are read now. Both stay quantized.
    ///
    /// # Errors
    /// [`Architecture`](crate::Error::Architecture), [`Config`](crate::Error::Config),
    /// [`Gguf`](crate::Error::Gguf), [`GgufType`](crate::Error::GgufType), and those of
    /// [`TensorFiles::open`] and [`Llama::from_parameters`].
    pub fn open(path: impl AsRef<Path>, dtype: Dtype, backend: Backend) -> Result<Self> {
        let compute = DtypePolicy::new(backend, dtype)?;
        let files = Files::open(path.as_ref())?;
        Self::build(files.config().clone(), compute, &|name| files.weight(name))
    }

    /// Reads all weights now. The unit of the progress is a byte.
    ///
    /// # Errors
    /// [`Error::Mlx`] if a file cannot be read; [`mlx_llamba::Error::Interrupted`].
    pub fn materialize(&self, on_progress: OnProgress<'_>) -> Result<()> {
        let total = self.weight_bytes();
        let mut done = 0;
        for array in self.weights().iter().flat_map(|(_, weight)| weight.arrays()) {
            array.eval()?;
            done += array.nbytes();
            Progress::new("", done as u64, total as u64).tell(on_progress)?;
        }
        Ok(())
    }
}

impl Files {
    /// Reads and checks the headers.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        if is_gguf(path) { Ok(Self::Gguf(Gguf::open(path)?)) } else { open_directory(path) }
    }

    pub(crate) fn config(&self) -> &LlamaConfig {
        match self {
            Self::Directory(stored) => stored.config(),
            Self::Gguf(gguf) => gguf.config(),
        }
    }

    /// Returns a tensor by its canonical name.
    fn weight(&self, name: &str) -> mlx_llamba::Result<Weight> {
        match self {
            Self::Directory(stored) => stored.weight(name),
            Self::Gguf(gguf) => gguf.weight(name),
        }
    }

    /// Returns canonical name, type, shape and size in bytes of every tensor.
    pub(crate) fn tensors(&self) -> Vec<(String, String, Vec<usize>, usize)> {
        match self {
            Self::Directory(stored) => stored.tensors(),
            Self::Gguf(gguf) => gguf
                .tensors()
                .map(|(name, kind, shape, bytes)| (name.to_owned(), kind, shape.to_vec(), bytes))
                .collect(),
        }
    }
}

/// True for a GGUF file, and for a directory whose `config.json` names another architecture than
/// Llamba's: it is opened, or refused, as a Llama.
pub fn is_teacher(path: &Path) -> bool {
    let kind = || -> Option<String> {
        let text = mlx_llamba::files::read(&path.join("config.json")).ok()?;
        Some(json::from_slice::<Value>(&text).ok()?["model_type"].as_str()?.to_owned())
    };
    is_gguf(path) || (path.is_dir() && kind().is_some_and(|kind| kind != "llamba"))
}

/// True for a GGUF file, by its first bytes or its name.
pub(crate) fn is_gguf(path: &Path) -> bool {
    let begins = || {
        let mut start = [0; 4];
        let read = std::fs::File::open(path).and_then(|mut file| file.read_exact(&mut start));
        read.is_ok() && start == *MAGIC
    };
    path.is_file() && (path.extension().is_some_and(|e| e == "gguf") || begins())
}

fn open_directory(path: &Path) -> Result<Files> {
    // A family that is not supported is refused by name, whatever files are there.
    let config_path = path.join("config.json");
    if let Ok(text) = mlx_llamba::files::read_text(&config_path)
        && let Err(error @ crate::Error::Architecture { .. }) =
            LlamaConfig::from_json(&config_path, &text)
    {
        return Err(error);
    }
    let files = TensorFiles::open(path)?;
    let Some((config_path, text)) = files.config() else {
        let reason = "there is no config.json".to_owned();
        return Err(Error::NotACheckpoint { path: path.to_owned(), reason }.into());
    };
    let (config, factors, quantization) = LlamaConfig::with_storage(config_path, text)?;
    let stored = Stored::new(path, files, config, factors, quantization.as_ref())?;
    Ok(Files::Directory(stored))
}
