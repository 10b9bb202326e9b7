//! Opens Llamas: directories in Hugging Face's layout, and GGUF files.

use std::collections::BTreeSet;
use std::io::Read;
use std::ops::Range;
use std::path::Path;

use mlx_llamba::Error;
use mlx_llamba::error::TensorProblem;
use mlx_llamba::files::{StoredTensor, TensorFiles, json};
use mlx_llamba::kernels::{Backend, Weight};
use mlx_llamba::linear::DtypePolicy;
use mlx_llamba::progress::{OnProgress, Progress};
use mlx_rs::Dtype;
use mlx_rs::ops::split_at_indices;
use serde_json::Value;

use crate::check::{check_shapes, missing};
use crate::config::LlamaConfig;
use crate::error::Result;
use crate::gguf::{Gguf, MAGIC};
use crate::llama::Llama;

/// A Llama's files, with valid headers.
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
            Self::Directory { config, .. } => config,
            Self::Gguf(gguf) => gguf.config(),
        }
    }

    /// Returns a tensor by its canonical name.
    fn weight(&self, name: &str) -> mlx_llamba::Result<Weight> {
        match self {
            Self::Directory { files, config, .. } => {
                let Some((whole, rows)) = part_of(config, name).filter(|_| !has(files, name))
                else {
                    return Ok(Weight::Dense(files.array(name)?));
                };
                let (from, to) = (rows.start as i32, rows.end as i32);
                let parts = split_at_indices(files.array(&whole)?, &[from, to], 0)?;
                let part = parts.into_iter().nth(1);
                Ok(Weight::Dense(part.ok_or_else(|| missing(files.path(), name))?))
            }
            Self::Gguf(gguf) => gguf.weight(name),
        }
    }

    /// Returns canonical name, type, shape and size in bytes of every tensor.
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
    let files = TensorFiles::open(path)?;
    let Some((config_path, text)) = files.config() else {
        let reason = "there is no config.json".to_owned();
        return Err(Error::NotACheckpoint { path: path.to_owned(), reason }.into());
    };
    let config = LlamaConfig::from_json(config_path, text)?;
    let ignored = ignored(&files, &config);
    let kept = || files.tensors().filter(|tensor| !ignored.contains(tensor.name()));
    let parts: Vec<_> = kept().flat_map(|t| parts_of(&config, t.name(), t.shape())).collect();
    let parts = parts.iter().map(|(name, shape)| (name.as_str(), shape.clone()));
    check_shapes(path, &config, parts)?;
    let problems: Vec<_> = kept().filter_map(check_dtype).collect();
    if !problems.is_empty() {
        return Err(Error::Tensors { path: path.to_owned(), problems }.into());
    }
    Ok(Files::Directory { files, config, ignored })
}

/// True if a file has a tensor of that name.
fn has(files: &TensorFiles, name: &str) -> bool {
    files.tensor(name).is_some()
}

/// The matrices that some families store in one, one below the other: Phi-3's queries, keys and
/// values, and the gate and input of its MLP.
fn fused(config: &LlamaConfig) -> [(&'static str, Vec<(&'static str, usize)>); 2] {
    let query = config.num_attention_heads * config.head_dim;
    let key = config.num_key_value_heads * config.head_dim;
    let m = config.intermediate_size;
    [
        ("self_attn.qkv_proj.weight", vec![("q_proj", query), ("k_proj", key), ("v_proj", key)]),
        ("mlp.gate_up_proj.weight", vec![("gate_proj", m), ("up_proj", m)]),
    ]
}

/// Returns the matrix that may contain a canonical tensor, and the rows of the tensor in it.
fn part_of(config: &LlamaConfig, name: &str) -> Option<(String, Range<usize>)> {
    for (whole, parts) in fused(config) {
        let module = whole.split('.').next().unwrap_or_default();
        let mut from = 0;
        for (part, rows) in parts {
            if let Some(layer) = name.strip_suffix(&format!("{module}.{part}.weight")) {
                return Some((format!("{layer}{whole}"), from..from + rows));
            }
            from += rows;
        }
    }
    None
}

/// Returns the canonical names and shapes of a stored tensor, which may hold several matrices.
fn parts_of(config: &LlamaConfig, name: &str, shape: &[usize]) -> Vec<(String, Vec<usize>)> {
    for (whole, parts) in fused(config) {
        let rows = parts.iter().map(|(_, rows)| rows).sum::<usize>();
        if let (Some(layer), &[found, columns]) = (name.strip_suffix(whole), shape)
            && found == rows
        {
            let module = whole.split('.').next().unwrap_or_default();
            let part =
                |(part, rows)| (format!("{layer}{module}.{part}.weight"), vec![rows, columns]);
            return parts.into_iter().map(part).collect();
        }
    }
    vec![(name.to_owned(), shape.to_vec())]
}

fn check_dtype(tensor: &StoredTensor) -> Option<TensorProblem> {
    use safetensors::Dtype::{BF16, F16, F32};
    (!matches!(tensor.dtype(), F32 | F16 | BF16)).then(|| TensorProblem::Dtype {
        name: tensor.name().to_owned(),
        found: tensor.dtype().to_string(),
        expected: "F32, F16 or BF16".into(),
    })
}

/// True for redundant tensors that some tools write: rotary frequencies, and a tied head that equals
/// the embedding bit for bit.
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
