//! Positions in a text to continue from, now or later, from a copy or a file.

use std::path::Path;

use mlx_llamba_kernels::MixerState;
use mlx_rs::{Array, Dtype};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::files::Views;
use crate::files::sealed::{Kind, Metadata};
use crate::files::{self, FloatTensor, atomic};
use crate::language::LanguageModel;
use crate::model::Model;
use crate::state::State;

const KIND: Kind = Kind {
    format: "mlx-llamba-state",
    version: "2",
    unsealed_version: Some("1"),
    name: "a saved state of mlx-llamba",
};
/// The number of recent ids kept for penalties.
pub(crate) const RECENT: usize = 1024;

/// A position in a text with the model's state there. A clone is a fork: it shares the arrays and
/// continues independently.
#[derive(Debug, Clone)]
pub struct Context<S = State> {
    pub(crate) state: S,
    pub(crate) position: Position,
}

/// Everything in a [`Context`] but the state.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Position {
    /// The number of tokens that the state has consumed.
    pub(crate) read: u64,
    /// Tokens of the text that the state has yet to consume.
    pub(crate) pending: Vec<u32>,
    /// The last tokens of the text, for penalties and the detokenizer.
    pub(crate) recent: Vec<u32>,
    /// The sampler's random generator after the last token.
    pub(crate) rng: Option<[u32; 2]>,
    /// Bytes of a character that the last token left unfinished.
    pub(crate) tail: Vec<u8>,
}

impl Position {
    /// Adds tokens to the recent ones.
    pub(crate) fn note(&mut self, ids: &[u32]) {
        self.recent.extend_from_slice(ids);
        let old = self.recent.len().saturating_sub(RECENT);
        self.recent.drain(..old);
    }

    /// Moves past `ids`, which the state has consumed. They begin with the pending tokens.
    pub(crate) fn advance(&mut self, ids: &[u32]) {
        let noted = self.pending.len().min(ids.len());
        self.pending.drain(..noted);
        self.note(&ids[noted..]);
        self.read += ids.len() as u64;
    }

    /// Makes `ids` pending. They begin with the tokens that are pending now.
    pub(crate) fn defer(&mut self, ids: &[u32]) {
        self.note(&ids[self.pending.len()..]);
        self.pending = ids.to_vec();
    }

    /// Adds a sampled token after the pending ones, which the state has consumed.
    pub(crate) fn push(&mut self, id: u32) {
        self.read += self.pending.len() as u64;
        self.pending = vec![id];
        self.note(&[id]);
    }

    /// Adds a token after the pending ones, none of which the state has consumed.
    pub(crate) fn append(&mut self, id: u32) {
        self.pending.push(id);
        self.note(&[id]);
    }
}

impl<S> Context<S> {
    /// Returns the context before the first token.
    ///
    /// # Errors
    /// [`Error::Mlx`] if the state cannot be allocated.
    pub fn new(model: &impl LanguageModel<State = S>) -> Result<Self> {
        Ok(Self { state: model.start()?, position: Position::default() })
    }

    /// Returns the context after `tokens`, all of which `state` (batch size 1) has consumed.
    #[must_use]
    pub fn after(state: S, tokens: &[u32]) -> Self {
        let mut position = Position::default();
        position.advance(tokens);
        Self { state, position }
    }

    /// The state after all tokens read, batch size 1.
    pub fn state(&self) -> &S {
        &self.state
    }

    /// The number of tokens that the model has read.
    pub fn read(&self) -> u64 {
        self.position.read
    }

    /// Tokens of the text that the model has yet to read: the last one sampled, or the rest of a
    /// prompt that was not read to its end.
    pub fn pending(&self) -> &[u32] {
        &self.position.pending
    }

    /// Returns true before the first token.
    pub fn is_empty(&self) -> bool {
        self.position.read == 0 && self.position.pending.is_empty()
    }
}

impl Context {
    /// Writes the context to one safetensors file: `layers.{i}.ssm_state` (h, p, n) and
    /// `layers.{i}.conv_state` (k-1, conv_dim), float32, and the rest as metadata, with a
    /// checksum over all of it. The file appears complete or not at all.
    ///
    /// # Errors
    /// [`Error::Io`] if the file cannot be written.
    pub fn save(&self, model: &Model, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        let position = &self.position;
        let metadata = Metadata::from([
            ("model".to_owned(), model.fingerprint().to_owned()),
            ("read".to_owned(), position.read.to_string()),
            ("pending".to_owned(), json(&position.pending)),
            ("recent".to_owned(), json(&position.recent)),
            ("rng".to_owned(), json(&position.rng)),
            ("tail".to_owned(), json(&position.tail)),
        ]);
        let bytes = KIND.seal(metadata, &self.state.tensors(0)?);
        let bytes = bytes.map_err(|reason| bad(path, reason))?;
        atomic::write_private(path, &bytes).map_err(Error::io("write", path))
    }

    /// Reads a file that [`save`](Self::save) wrote.
    ///
    /// # Errors
    /// [`Error::State`] if the file is damaged, of another version or of another model.
    pub fn load(model: &Model, path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let config = model.config();
        // Nothing of ours is larger; a hostile file must not fill the memory.
        let limit = config.state_bytes(4) as u64 + (16 << 20) + 16 * 1024 * config.n_layer as u64;
        let size = std::fs::metadata(path).map_err(Error::io("read", path))?.len();
        if size > limit {
            return Err(bad(path, format!("{size} bytes, more than a state of this model has")));
        }
        let bytes = files::read(path).map_err(Error::io("read", path))?;
        let (metadata, file) = KIND.open(&bytes).map_err(|reason| bad(path, reason))?;
        let text = |key: &str| metadata.get(key).map_or("", String::as_str);
        if text("model") != model.fingerprint() {
            return Err(bad(
                path,
                format!(
                    "it belongs to another model ({found:.12}, this one is {this:.12}); \
                     load the model it was saved with",
                    found = text("model"),
                    this = model.fingerprint()
                ),
            ));
        }
        let state = state(model, |name, shape| array(path, &file, name, shape))?;
        if file.len() != 2 * config.n_layer {
            return Err(bad(path, format!("{} tensors too many", file.len() - 2 * config.n_layer)));
        }
        let position = Position {
            read: parse(path, "read", text("read"))?,
            pending: parse(path, "pending", text("pending"))?,
            recent: parse(path, "recent", text("recent"))?,
            rng: parse(path, "rng", text("rng"))?,
            tail: parse(path, "tail", text("tail"))?,
        };
        let foreign = |id: &&u32| **id as usize >= config.vocab_size;
        if let Some(id) = position.pending.iter().chain(&position.recent).find(foreign) {
            return Err(bad(path, format!("token id {id} is outside the vocabulary")));
        }
        Ok(Self { state, position })
    }
}

fn bad(path: &Path, reason: String) -> Error {
    Error::State { path: path.to_owned(), reason }
}

/// JSON of numbers and lists of numbers.
fn json<T: Serialize>(value: &T) -> String {
    serde_json::json!(value).to_string()
}

fn parse<T: DeserializeOwned>(path: &Path, key: &str, text: &str) -> Result<T> {
    serde_json::from_str(text).map_err(|e| bad(path, format!("damaged: metadata {key}: {e}")))
}

/// The state whose tensors, by their names and shapes, `tensor` gives as (1, ..shape) float32.
pub(crate) fn state(
    model: &Model,
    tensor: impl Fn(&str, &[usize]) -> Result<Array>,
) -> Result<State> {
    let dims = model.config().dims();
    let ssm_shape = [dims.h, dims.p, dims.n];
    let conv_shape = [dims.k - 1, dims.conv_dim()];
    let layer = |i: usize| -> Result<MixerState> {
        let ssm = tensor(&format!("layers.{i}.ssm_state"), &ssm_shape)?;
        let conv = tensor(&format!("layers.{i}.conv_state"), &conv_shape)?;
        Ok(MixerState { conv: conv.as_dtype(model.dtype())?, ssm })
    };
    Ok(State::from_layers((0..model.config().n_layer).map(layer).collect::<Result<_>>()?))
}

/// The tensor `name` of a file as (1, ..shape) float32.
pub(crate) fn array(path: &Path, file: &Views<'_>, name: &str, shape: &[usize]) -> Result<Array> {
    let view = file.get(name).ok_or_else(|| missing(path, name))?;
    let tensor = FloatTensor::read(name, view)
        .map_err(|found| bad(path, format!("{name} is {found:?}, expected F32")))?;
    shaped(path, &tensor, shape)
}

/// A tensor of a file that was read already.
#[cfg(feature = "chat")]
pub(crate) fn read_array(
    path: &Path,
    tensors: &std::collections::BTreeMap<String, FloatTensor>,
    name: &str,
    shape: &[usize],
) -> Result<Array> {
    shaped(path, tensors.get(name).ok_or_else(|| missing(path, name))?, shape)
}

fn missing(path: &Path, name: &str) -> Error {
    bad(path, format!("{name} is missing"))
}

/// The values of a tensor that must have this shape, as (1, ..shape).
fn shaped(path: &Path, tensor: &FloatTensor, shape: &[usize]) -> Result<Array> {
    let FloatTensor { name, shape: found, values } = tensor;
    if found != shape {
        return Err(bad(path, format!("{name} is F32 {found:?}, expected F32 {shape:?}")));
    }
    let shape: Vec<i32> = [1].into_iter().chain(shape.iter().map(|&s| s as i32)).collect();
    if values.is_empty() {
        return Ok(mlx_rs::ops::zeros_dtype(&shape, Dtype::Float32)?);
    }
    Ok(Array::from_slice(values, &shape))
}
