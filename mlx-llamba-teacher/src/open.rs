//! Llamas in files: directories as Hugging Face's, and GGUF.

use std::collections::BTreeSet;
use std::io::Read;
use std::path::Path;

use mlx_llamba::files::{StoredTensor, TensorFiles};
use mlx_llamba::{Backend, DtypePolicy, Error, TensorProblem, Weight};
use mlx_rs::Dtype;
use serde_json::Value;

use crate::check::check_shapes;
use crate::config::LlamaConfig;
use crate::error::Result;
use crate::gguf::{Gguf, MAGIC};
use crate::llama::Llama;

/// A Llama's files, whose headers were read and found sound.
pub(crate) enum Files {
    Directory { files: TensorFiles, config: LlamaConfig, ignored: BTreeSet<String> },
    Gguf(Gguf),
}

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
        let compute = DtypePolicy::new(backend, dtype)?;
        let files = Files::open(path.as_ref())?;
        Self::build(files.config().clone(), compute, &|name| files.weight(name))
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

impl Files {
    /// Reads and checks the headers.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        if is_gguf(path) { Ok(Self::Gguf(Gguf::open(path)?)) } else { open_directory(path) }
    }

    pub(crate) fn config(&self) -> &LlamaConfig {
        match self {
            Self::Directory { config, .. } => config,
            Self::Gguf(gguf) => gguf.config(),
        }
    }

    /// A tensor by its canonical name.
    fn weight(&self, name: &str) -> mlx_llamba::Result<Weight> {
        match self {
            Self::Directory { files, .. } => Ok(Weight::Dense(files.array(name)?)),
            Self::Gguf(gguf) => gguf.weight(name),
        }
    }

    /// Canonical name, kind, shape and bytes of every tensor.
    pub(crate) fn tensors(&self) -> Vec<(String, String, Vec<usize>, usize)> {
        match self {
            Self::Directory { files, ignored, .. } => files
                .tensors()
                .filter(|tensor| !ignored.contains(tensor.name()))
                .map(|tensor| {
                    let (kind, shape) = (tensor.dtype().to_string(), tensor.shape().to_vec());
                    (tensor.name().to_owned(), kind, shape, tensor.bytes().len())
                })
                .collect(),
            Self::Gguf(gguf) => gguf
                .tensors()
                .map(|(name, kind, shape, bytes)| (name.to_owned(), kind, shape.to_vec(), bytes))
                .collect(),
        }
    }
}

/// True for a GGUF file, and for a directory whose `config.json` names an architecture other than
/// Llamba's: what is to be opened as a Llama, and refused as such.
pub fn is_teacher(path: &Path) -> bool {
    let kind = || -> Option<String> {
        let text = std::fs::read_to_string(path.join("config.json")).ok()?;
        Some(serde_json::from_str::<Value>(&text).ok()?["model_type"].as_str()?.to_owned())
    };
    is_gguf(path) || (path.is_dir() && kind().is_some_and(|kind| kind != "llamba"))
}

/// True for a file that calls itself GGUF, by its first bytes or by its name.
pub(crate) fn is_gguf(path: &Path) -> bool {
    let begins = || {
        let mut start = [0; 4];
        let read = std::fs::File::open(path).and_then(|mut file| file.read_exact(&mut start));
        read.is_ok() && start == *MAGIC
    };
    path.is_file() && (path.extension().is_some_and(|e| e == "gguf") || begins())
}

fn open_directory(path: &Path) -> Result<Files> {
    let files = TensorFiles::open(path)?;
    let Some((config_path, text)) = files.config() else {
        let reason = "there is no config.json".to_owned();
        return Err(Error::NotACheckpoint { path: path.to_owned(), reason }.into());
    };
    let config = LlamaConfig::from_json(config_path, text)?;
    let ignored = ignored(&files, &config);
    let kept = || files.tensors().filter(|tensor| !ignored.contains(tensor.name()));
    check_shapes(path, &config, kept().map(|tensor| (tensor.name(), tensor.shape().to_vec())))?;
    let problems: Vec<_> = kept().filter_map(check_dtype).collect();
    if !problems.is_empty() {
        return Err(Error::Tensors { path: path.to_owned(), problems }.into());
    }
    Ok(Files::Directory { files, config, ignored })
}

fn check_dtype(tensor: &StoredTensor) -> Option<TensorProblem> {
    use safetensors::Dtype::{BF16, F16, F32};
    (!matches!(tensor.dtype(), F32 | F16 | BF16)).then(|| TensorProblem::Dtype {
        name: tensor.name().to_owned(),
        found: tensor.dtype().to_string(),
        expected: "F32, F16 or BF16".into(),
    })
}

/// Tensors that some tools write and that say nothing new: rotary frequencies, and a tied head
/// that is the embedding's to the bit.
fn ignored(files: &TensorFiles, config: &LlamaConfig) -> BTreeSet<String> {
    let head = "lm_head.weight";
    let bytes = |name: &str| files.tensor(name).map(StoredTensor::bytes);
    let twice = config.tie_word_embeddings
        && bytes(head).is_some()
        && bytes(head) == bytes("model.embed_tokens.weight");
    let says_nothing = |name: &str| name.ends_with("rotary_emb.inv_freq") || name == head && twice;
    let names = files.tensors().map(|tensor| tensor.name().to_owned());
    names.filter(|name| says_nothing(name)).collect()
}
