//! Finds the files of a model and reads their headers.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use super::header::{self, Header};
use super::index::{Index, WeightMap};
use super::{Source, json};
use crate::error::{Error, FieldProblem, Result, printable};

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
/// The largest configuration, and the largest index, of which the largest models have 10 MB.
const MAX_CONFIG: u64 = 2 << 20;
const MAX_INDEX: u64 = 32 << 20;

/// The files of a model.
pub(crate) struct Files {
    /// Path and text of `config.json`, if it exists.
    pub(crate) config: Option<(PathBuf, String)>,
    pub(crate) weights: Vec<(Arc<Source>, Header)>,
}

/// Opens the configuration and the weights at `path`, a directory or a weight file.
pub(crate) fn open(path: &Path) -> Result<Files> {
    let metadata = std::fs::metadata(path).map_err(|source| Error::Io {
        action: "open",
        path: path.to_owned(),
        source,
    })?;
    if !metadata.is_dir() {
        return Ok(Files { config: None, weights: vec![weights(path)?] });
    }
    let config_path = path.join("config.json");
    let config = match config_path.try_exists() {
        Ok(false) => None,
        _ => Some((config_path.clone(), text(&config_path, MAX_CONFIG)?)),
    };
    let index = path.join(INDEX);
    let weights = if path.join(SINGLE).exists() {
        vec![weights(&path.join(SINGLE))?]
    } else if index.exists() {
        shards(path, &index)?
    } else {
        vec![weights(&only_file(path)?)?]
    };
    Ok(Files { config, weights })
}

fn weights(path: &Path) -> Result<(Arc<Source>, Header)> {
    let source = Arc::new(Source::open(path)?);
    if source.bytes().starts_with(b"GGUF") {
        let reason =
            "a GGUF file holds a Transformer; this command needs a Llamba, which `distill` makes from it"
                .into();
        return Err(Error::NotACheckpoint { path: path.to_owned(), reason });
    }
    let header = header::read(&source)?;
    Ok((source, header))
}

/// The text of a file of at most `most` bytes.
fn text(path: &Path, most: u64) -> Result<String> {
    let io = |source| Error::Io { action: "read", path: path.to_owned(), source };
    let metadata = std::fs::metadata(path).map_err(io)?;
    if !metadata.is_file() || metadata.len() > most {
        let reason = format!("it is not a regular file of at most {most} bytes");
        return Err(Error::NotACheckpoint { path: path.to_owned(), reason });
    }
    std::fs::read_to_string(path).map_err(io)
}

/// The only weight file of a directory. Hidden files do not count: `._` files of macOS are no
/// weights.
fn only_file(directory: &Path) -> Result<PathBuf> {
    let io = |source| Error::Io { action: "list", path: directory.to_owned(), source };
    let mut files = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(io)? {
        let file = entry.map_err(io)?.path();
        let hidden = file.file_name().is_some_and(|name| name.as_encoded_bytes()[0] == b'.');
        if !hidden && file.extension().is_some_and(|extension| extension == "safetensors") {
            files.push(file);
        }
    }
    let other = kind(directory);
    match (<[PathBuf; 1]>::try_from(files), other) {
        (Ok([file]), None) => Ok(file),
        (files, other) => Err(Error::NotACheckpoint {
            path: directory.to_owned(),
            reason: match (other, files.map_or_else(|files| files.len(), |_| 1)) {
                (Some(kind), _) => kind.to_owned(),
                (_, 0) => {
                    format!("there is no {SINGLE}, no {INDEX} and no other .safetensors file")
                }
                (_, n) => {
                    format!("there are {n} .safetensors files, but no {SINGLE} and no {INDEX}")
                }
            },
        }),
    }
}

/// Tells what a directory without `model.safetensors` is, if it is known to be something else than a
/// model, and what to give instead.
fn kind(directory: &Path) -> Option<&'static str> {
    let has = |name: &str| directory.join(name).exists();
    let entries = std::fs::read_dir(directory).ok()?.flatten();
    let names: Vec<String> =
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    let any = |test: fn(&str) -> bool| names.iter().any(|name| test(name));
    Some(match () {
        () if names.is_empty() => {
            "the directory is empty; a model has a config.json and a model.safetensors"
        }
        () if has("adapter_config.json") => {
            "it is an adapter (LoRA), not a whole model: merge it into its model first"
        }
        () if has("state.safetensors") && has("state.json") => {
            "it is a checkpoint of a training run: the run writes its model to the directory above \
             when it is complete"
        }
        () if any(|name| name.starts_with("checkpoint-")) => {
            "it is an unfinished run of distill or train: --resume completes it"
        }
        () if any(|name| name.ends_with(".gguf")) => {
            "it holds a GGUF file, and no other model: give that file"
        }
        () if any(|name| {
            name.ends_with(".bin") || name.ends_with(".pt") || name.ends_with(".pth")
        }) =>
        {
            "its weights are PyTorch's own files: convert them to safetensors"
        }
        () if has("model_index.json") => "it is a pipeline of diffusers",
        () if has("config.json") || any(|name| name.ends_with(".safetensors")) => return None,
        () if has("tokenizer.json") => {
            "it is a tokenizer without a model: --tokenizer takes it, beside --model"
        }
        () => return None,
    })
}

/// Opens all files that an index names; each must hold exactly the tensors that it lists.
fn shards(directory: &Path, index: &Path) -> Result<Vec<(Arc<Source>, Header)>> {
    let Index { weight_map } = json::from_slice(text(index, MAX_INDEX)?.as_bytes())
        .map_err(|source| Error::Json { path: index.to_owned(), source })?;
    let mut problems = Vec::new();
    let mut problem = |field: &str, found: String, expected: String| {
        problems.push(FieldProblem { field: printable(field), found, expected });
    };
    let mut map: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    match &weight_map {
        None => problem("weight_map", "missing".into(), "an object of file names".into()),
        Some(WeightMap(entries)) if entries.is_empty() => {
            problem("weight_map", "empty".into(), "a file name for every tensor".into());
        }
        Some(WeightMap(entries)) => {
            for (tensor, file) in entries {
                match Some(file).filter(|file| is_plain(file)) {
                    Some(file) => {
                        map.entry(file).or_default().insert(tensor);
                    }
                    None => problem(
                        tensor,
                        printable(file),
                        "the name of a file in the same directory".into(),
                    ),
                }
            }
        }
    }
    let mut opened = Vec::new();
    for (file, tensors) in map {
        let path = directory.join(file);
        if !path.is_file() {
            problem(file, "missing".into(), format!("a file with {} tensors", tensors.len()));
            continue;
        }
        let shard = weights(&path)?;
        let inside: BTreeSet<&str> = shard.1.tensors.iter().map(|t| t.name()).collect();
        for tensor in tensors.difference(&inside) {
            problem(tensor, format!("not in {file}"), "what the index says".into());
        }
        for tensor in inside.difference(&tensors) {
            problem(tensor, format!("in {file}"), "what the index says".into());
        }
        opened.push(shard);
    }
    if problems.is_empty() {
        Ok(opened)
    } else {
        Err(Error::Index { path: index.to_owned(), problems })
    }
}

/// True for the name of a file in the same directory.
fn is_plain(name: &str) -> bool {
    let mut parts = Path::new(name).components();
    matches!((parts.next(), parts.next()), (Some(Component::Normal(part)), None) if part == name)
}
