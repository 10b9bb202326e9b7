//! Checkpoints: everything that a run needs to resume, on disk.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use mlx_llamba::files::hash::sha256;
use mlx_llamba::files::{Map, atomic, float_bytes, floats_of, views};
use mlx_rs::Array;
use safetensors::tensor::{Dtype, View};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Watch;
use crate::data::Position;
use crate::error::io;
use crate::{Error, Parameters, Result};

const VERSION: u32 = 1;
const TENSORS: &str = "state.safetensors";
const STATE: &str = "state.json";
const PREFIX: &str = "checkpoint-";

/// AdamW's moments of a parameter, float32, of the parameter's shape.
#[derive(Debug, Clone)]
pub struct Moments {
    /// Mean gradient.
    pub m: Array,
    /// Mean squared gradient.
    pub v: Array,
}

/// The progress of a run.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// The current stage, counted from 0.
    pub stage: usize,
    /// Steps of this stage.
    pub step: u64,
    /// Steps of all stages.
    pub total_steps: u64,
    /// Tokens read in all stages.
    pub tokens: u64,
    /// The position in the text that this stage reads next.
    pub position: Position,
    /// The previous losses.
    pub watch: Watch,
}

/// A run between two steps.
#[derive(Debug, Clone)]
pub struct State {
    /// All parameters of the model, float32.
    pub parameters: Parameters,
    /// The optimizer's moments of the parameters that this stage trains.
    pub moments: BTreeMap<String, Moments>,
    /// The run's progress.
    pub progress: Progress,
}

impl State {
    /// The state before the first step.
    #[must_use]
    pub fn new(parameters: Parameters) -> Self {
        Self { parameters, moments: BTreeMap::new(), progress: Progress::default() }
    }

    /// Moves on to the next stage, which has no moments yet and reads the text from its start.
    pub fn next_stage(&mut self) {
        self.moments.clear();
        let Progress { stage, total_steps, tokens, .. } = self.progress;
        self.progress = Progress { stage: stage + 1, total_steps, tokens, ..Progress::default() };
    }
}

/// The values that determine what a run computes, by dotted names: two runs with the same identity
/// have the same steps.
pub type Identity = BTreeMap<String, Value>;

#[derive(Serialize, Deserialize)]
struct Saved {
    version: u32,
    progress: Progress,
    identity: Identity,
    /// The size of the tensors' file in bytes.
    bytes: u64,
    /// SHA-256 of the tensors' file; checkpoints of earlier versions have no checksums.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    tensors_sha256: Option<String>,
    /// SHA-256 of the text before this field.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    sha256: Option<String>,
}

/// The text between the hashed fields and their checksum, which is followed by a quotation mark, a
/// line break and a brace.
const BEFORE_SHA256: &str = ",\n  \"sha256\": \"";

/// The checkpoints of a run: directories `checkpoint-STEP`, the last few of them.
#[derive(Debug)]
pub struct Checkpoints {
    directory: PathBuf,
    keep: usize,
}

impl Checkpoints {
    /// Manages the checkpoints in `directory` and keeps the last `keep` of them (at least 1).
    #[must_use]
    pub fn new(directory: &Path, keep: usize) -> Self {
        Self { directory: directory.to_owned(), keep: keep.max(1) }
    }

    /// Returns steps and directories, the newest first.
    fn list(&self) -> Result<Vec<(u64, PathBuf)>> {
        let entries = match fs::read_dir(&self.directory) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(io("list", &self.directory)(error)),
        };
        let mut found = Vec::new();
        for entry in entries {
            let path = entry.map_err(io("list", &self.directory))?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if let Some(step) = name.strip_prefix(PREFIX).and_then(|step| step.parse().ok()) {
                found.push((step, path));
            }
        }
        found.sort_unstable_by(|a, b| b.cmp(a));
        Ok(found)
    }

    /// True if there is none, not even a damaged one.
    ///
    /// # Errors
    /// [`mlx_llamba::Error::Io`].
    pub fn is_empty(&self) -> Result<bool> {
        Ok(self.list()?.is_empty())
    }

    /// Writes a checkpoint under a hidden name, flushes it to the disk, renames it, and then removes
    /// surplus checkpoints.
    ///
    /// # Errors
    /// [`mlx_llamba::Error::Io`], for example on a full disk: the partial checkpoint is removed, and earlier ones
    /// are kept.
    pub fn save(&self, state: &State, identity: &Identity) -> Result<PathBuf> {
        let name = format!("{PREFIX}{:08}", state.progress.total_steps);
        let path = self.directory.join(&name);
        let hidden = self.directory.join(format!(".{name}.partial"));
        // Left behind by a killed run.
        remove(&hidden)?;
        fs::create_dir(&hidden).map_err(io("write", &path))?;
        if let Err(error) = self.fill(&hidden, &path, state, identity) {
            let _ = fs::remove_dir_all(&hidden);
            return Err(error);
        }
        remove(&path)?;
        fs::rename(&hidden, &path).map_err(io("write", &path))?;
        sync(&self.directory)?;
        for (_, old) in self.list()?.into_iter().skip(self.keep) {
            remove(&old)?;
        }
        Ok(path)
    }

    /// Writes the files; errors name `path`, the checkpoint's final name.
    fn fill(&self, hidden: &Path, path: &Path, state: &State, identity: &Identity) -> Result<()> {
        let mut tensors = Vec::new();
        for (name, array) in &state.parameters {
            tensors.push((format!("parameter/{name}"), Tensor::new(array)?));
        }
        for (name, Moments { m, v }) in &state.moments {
            tensors.push((format!("m/{name}"), Tensor::new(m)?));
            tensors.push((format!("v/{name}"), Tensor::new(v)?));
        }
        let file = hidden.join(TENSORS);
        safetensors::serialize_to_file(tensors, None, &file).map_err(|error| match error {
            safetensors::SafeTensorError::IoError(error) => io("write", path)(error),
            other => Error::Checkpoint { path: path.to_owned(), reason: other.to_string() },
        })?;
        sync(&file)?;
        let map = Map::open(&file)?;
        let saved = Saved {
            version: VERSION,
            progress: state.progress.clone(),
            identity: identity.clone(),
            bytes: map.len() as u64,
            tensors_sha256: Some(sha256(&*map)),
            sha256: None,
        };
        let text = serde_json::to_string_pretty(&saved).map_err(|e| bad(path, e.to_string()))?;
        let text = text.trim_end_matches("\n}");
        let text = format!("{text}{BEFORE_SHA256}{}\"\n}}", sha256(text));
        let file = hidden.join(STATE);
        fs::write(&file, text).map_err(io("write", path))?;
        sync(&file)?;
        sync(hidden)
    }

    /// Removes all of them.
    pub(super) fn remove(&self) -> Result<()> {
        self.list()?.into_iter().try_for_each(|(_, path)| remove(&path))
    }

    /// Removes checkpoints of later steps than `step`, which are damaged and would block new ones.
    pub(super) fn forget_after(&self, step: u64) -> Result<()> {
        let mut later = self.list()?.into_iter().filter(|&(at, _)| at > step);
        later.try_for_each(|(_, path)| remove(&path))
    }

    /// Loads the newest intact checkpoint, with the identity of its run; damaged ones are skipped
    /// with a warning.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] if all of them are damaged.
    pub fn newest(&self) -> Result<Option<(State, Identity)>> {
        let mut failed = None;
        for (step, path) in self.list()? {
            match open(&path) {
                Ok((state, _)) if state.progress.total_steps != step => {
                    let reason = format!("it is of step {}", state.progress.total_steps);
                    failed = failed.or(Some(bad(&path, reason)));
                }
                Ok(found) => return Ok(Some(found)),
                Err(error) => {
                    log::warn!("{error}; trying the one before");
                    failed = failed.or(Some(error));
                }
            }
        }
        failed.map_or(Ok(None), Err)
    }
}

/// Describes the differences of two identities, one line each.
pub(crate) fn differences(saved: &Identity, wanted: &Identity) -> Vec<String> {
    let keys: std::collections::BTreeSet<&String> = saved.keys().chain(wanted.keys()).collect();
    let show = |value: Option<&Value>| value.map_or("not set".to_owned(), Value::to_string);
    keys.into_iter()
        .filter(|&key| saved.get(key) != wanted.get(key))
        .map(|key| format!("{key} was {}, is {}", show(saved.get(key)), show(wanted.get(key))))
        .collect()
}

fn open(path: &Path) -> Result<(State, Identity)> {
    let file = path.join(STATE);
    let text = fs::read_to_string(&file).map_err(io("read", &file))?;
    let saved: Saved = serde_json::from_str(&text).map_err(|e| bad(path, e.to_string()))?;
    if saved.version != VERSION {
        return Err(bad(path, format!("version {}, expected {VERSION}", saved.version)));
    }
    let map = Map::open(&path.join(TENSORS))?;
    if map.len() as u64 != saved.bytes {
        return Err(bad(path, format!("{} bytes of {}", map.len(), saved.bytes)));
    }
    let damaged = |file: &str| bad(path, format!("{file} is damaged: its checksum is wrong"));
    match (&saved.tensors_sha256, &saved.sha256, text.rsplit_once(BEFORE_SHA256)) {
        (Some(_), Some(sum), Some((hashed, _))) if sha256(hashed) != *sum => {
            return Err(damaged(STATE));
        }
        (Some(sum), Some(_), Some(_)) if sha256(&*map) != *sum => return Err(damaged(TENSORS)),
        (Some(_), Some(_), Some(_)) => {}
        (None, None, None) => {
            log::warn!("{}: without a checksum, by an earlier version", path.display());
        }
        _ => return Err(damaged(STATE)),
    }
    let (_, tensors) = views(&map).map_err(|e| bad(path, e.to_string()))?;
    let mut state = State::new(Parameters::new());
    state.progress = saved.progress;
    let (mut first, mut second) = (BTreeMap::new(), BTreeMap::new());
    for (name, view) in &tensors {
        let shape: Option<Vec<i32>> =
            view.shape().iter().map(|&size| i32::try_from(size).ok()).collect();
        let (Some(shape), Dtype::F32) = (shape, view.dtype()) else {
            return Err(bad(path, format!("{name} is {:?} {:?}", view.dtype(), view.shape())));
        };
        let array = Array::from_slice(&floats_of(view.data()), &shape);
        match name.split_once('/') {
            Some(("parameter", name)) => state.parameters.insert(name.to_owned(), array),
            Some(("m", name)) => first.insert(name.to_owned(), array),
            Some(("v", name)) => second.insert(name.to_owned(), array),
            _ => return Err(bad(path, format!("{name} is unknown"))),
        };
    }
    for (name, m) in first {
        let v = second.remove(&name);
        let v = v.ok_or_else(|| bad(path, format!("{name} has one moment of two")))?;
        state.moments.insert(name, Moments { m, v });
    }
    Ok((state, saved.identity))
}

fn bad(path: &Path, reason: String) -> Error {
    Error::Checkpoint { path: path.to_owned(), reason }
}

fn sync(path: &Path) -> Result<()> {
    atomic::sync(path).map_err(io("write", path))
}

/// Removes a directory if it exists.
fn remove(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(io("remove", path)(error))
        }
        _ => Ok(()),
    }
}

/// A float32 array as safetensors writes it: one copy at a time.
struct Tensor {
    array: Array,
    shape: Vec<usize>,
}

impl Tensor {
    fn new(array: &Array) -> Result<Self> {
        let array = array.as_dtype(mlx_rs::Dtype::Float32)?.contiguous()?;
        array.eval()?;
        let shape = array.shape().iter().map(|&size| size as usize).collect();
        Ok(Self { array, shape })
    }
}

impl View for Tensor {
    fn dtype(&self) -> Dtype {
        Dtype::F32
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        // Evaluated, contiguous and float32 by construction; an empty array has no slice.
        let values = self.array.try_as_slice::<f32>().unwrap_or_default();
        float_bytes(values).into()
    }

    fn data_len(&self) -> usize {
        4 * self.array.size()
    }
}
