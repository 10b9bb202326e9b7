//! Finds the files of a checkpoint and reads their headers.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use serde_json::Value;

use super::header::{self, Header};
use super::source::Source;
use crate::error::{Error, FieldProblem, Result, printable};

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
/// No configuration and no index is longer.
const MAX_JSON: u64 = 64 << 20;

/// A checkpoint's files: the configuration's text where there is one, and the weights.
pub(crate) struct Files {
    pub(crate) config: Option<(PathBuf, String)>,
    pub(crate) weights: Vec<(Arc<Source>, Header)>,
}

/// Finds configuration and weights at `path`, a directory or one weight file.
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
        _ => Some((config_path.clone(), text(&config_path)?)),
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
    let source = Source::open(path)?;
    if source.bytes().starts_with(b"GGUF") {
        let reason = "a GGUF file holds a Transformer; what is needed here is a Llamba, and distill makes one of it".into();
        return Err(Error::NotACheckpoint { path: path.to_owned(), reason });
    }
    let header = header::read(&source)?;
    Ok((Arc::new(source), header))
}

/// A text file of a sensible length.
fn text(path: &Path) -> Result<String> {
    let io = |source| Error::Io { action: "read", path: path.to_owned(), source };
    let metadata = std::fs::metadata(path).map_err(io)?;
    if !metadata.is_file() || metadata.len() > MAX_JSON {
        let reason = format!("no regular file of at most {MAX_JSON} bytes");
        return Err(Error::NotACheckpoint { path: path.to_owned(), reason });
    }
    std::fs::read_to_string(path).map_err(io)
}

/// The directory's only weight file, whatever its name.
fn only_file(directory: &Path) -> Result<PathBuf> {
    let io = |source| Error::Io { action: "list", path: directory.to_owned(), source };
    let mut files = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(io)? {
        let file = entry.map_err(io)?.path();
        if file.extension().is_some_and(|extension| extension == "safetensors") {
            files.push(file);
        }
    }
    match <[PathBuf; 1]>::try_from(files) {
        Ok([file]) => Ok(file),
        Err(files) => Err(Error::NotACheckpoint {
            path: directory.to_owned(),
            reason: format!(
                "looked for {SINGLE}, {INDEX} or a single .safetensors file, found {} of the last",
                files.len()
            ),
        }),
    }
}

/// All files that the index names, each holding exactly what the index says it holds.
fn shards(directory: &Path, index: &Path) -> Result<Vec<(Arc<Source>, Header)>> {
    let value: Value = serde_json::from_str(&text(index)?)
        .map_err(|source| Error::Json { path: index.to_owned(), source })?;
    let mut problems = Vec::new();
    let mut problem = |field: &str, found: String, expected: String| {
        problems.push(FieldProblem { field: printable(field), found, expected });
    };
    let mut map: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    match value.get("weight_map").and_then(Value::as_object) {
        None => problem("weight_map", "missing".into(), "an object of file names".into()),
        Some(entries) if entries.is_empty() => {
            problem("weight_map", "empty".into(), "a file name for every tensor".into());
        }
        Some(entries) => {
            for (tensor, file) in entries {
                match file.as_str().filter(|file| is_plain(file)) {
                    Some(file) => {
                        map.entry(file).or_default().insert(tensor);
                    }
                    None => problem(
                        tensor,
                        printable(&file.to_string()),
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
        let inside: BTreeSet<&str> = shard.1.tensors.iter().map(|t| t.name.as_str()).collect();
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

/// True for a name that cannot leave its directory.
fn is_plain(name: &str) -> bool {
    let mut parts = Path::new(name).components();
    matches!((parts.next(), parts.next()), (Some(Component::Normal(part)), None) if part == name)
}
