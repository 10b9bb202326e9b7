//! A place in a text, to go on from: now, from a copy, or from a file another day.

use std::collections::BTreeMap;
use std::path::Path;

use mlx_llamba_kernels::MixerState;
use mlx_rs::{Array, Dtype};
use safetensors::SafeTensors;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::{Error, Result};
use crate::files::sealed::{Kind, Metadata};
use crate::files::{FloatTensor, atomic};
use crate::language::LanguageModel;
use crate::model::Model;
use crate::state::State;

const KIND: Kind = Kind {
    format: "mlx-llamba-state",
    version: "2",
    unsealed_version: Some("1"),
    name: "a saved state of mlx-llamba",
};
/// Ids kept for penalties and for the detokenizer; older ones are forgotten.
const RECENT: usize = 1024;

/// Where a text stands. A clone is a fork: it shares the arrays and goes its own way.
#[derive(Debug, Clone)]
pub struct Context<S = State> {
    pub(crate) state: S,
    pub(crate) read: u64,
    pub(crate) pending: Vec<u32>,
    pub(crate) recent: Vec<u32>,
    pub(crate) rng: Option<[u32; 2]>,
    /// Bytes of a character that the last token left unfinished.
    pub(crate) tail: Vec<u8>,
}

impl<S> Context<S> {
    /// The place before the first token.
    ///
    /// # Errors
    /// [`Error::Mlx`] if the state cannot be allocated.
    pub fn new(model: &impl LanguageModel<State = S>) -> Result<Self> {
        Ok(Self {
            state: model.start()?,
            read: 0,
            pending: Vec::new(),
            recent: Vec::new(),
            rng: None,
            tail: Vec::new(),
        })
    }

    /// The place after `tokens`, all of which `state` (batch size 1) has read.
    #[must_use]
    pub fn after(state: S, tokens: &[u32]) -> Self {
        let (read, tail) = (tokens.len() as u64, Vec::new());
        let mut context =
            Self { state, read, pending: Vec::new(), recent: Vec::new(), rng: None, tail };
        context.note(tokens);
        context
    }

    /// The state after all tokens read, batch size 1.
    pub fn state(&self) -> &S {
        &self.state
    }

    /// Tokens that the model has read.
    pub fn read(&self) -> u64 {
        self.read
    }

    /// Tokens that stand in the text and that the model has yet to read: the last one sampled, or
    /// what is left of a prompt that was not read to its end.
    pub fn pending(&self) -> &[u32] {
        &self.pending
    }

    /// True before the first token.
    pub fn is_empty(&self) -> bool {
        self.read == 0 && self.pending.is_empty()
    }

    /// Notes tokens that have become part of the text.
    pub(crate) fn note(&mut self, ids: &[u32]) {
        self.recent.extend_from_slice(ids);
        let old = self.recent.len().saturating_sub(RECENT);
        self.recent.drain(..old);
    }

    /// The same place with another state, or none.
    pub(crate) fn with<T>(self, state: impl FnOnce(S) -> T) -> Context<T> {
        Context {
            state: state(self.state),
            read: self.read,
            pending: self.pending,
            recent: self.recent,
            rng: self.rng,
            tail: self.tail,
        }
    }
}

impl Context {
    /// Writes the context to one safetensors file: `layers.{i}.ssm_state` (h, p, n) and
    /// `layers.{i}.conv_state` (k-1, conv_dim), float32, and the rest as metadata, with a
    /// checksum over all of it. The file appears complete or not at all.
    ///
    /// # Errors
    /// [`Error::Io`] if the file cannot be written.
    pub fn save(&self, model: &Model, path: &Path) -> Result<()> {
        let metadata = Metadata::from([
            ("model".to_owned(), model.fingerprint().to_owned()),
            ("read".to_owned(), self.read.to_string()),
            ("pending".to_owned(), json(&self.pending)),
            ("recent".to_owned(), json(&self.recent)),
            ("rng".to_owned(), json(&self.rng)),
            ("tail".to_owned(), json(&self.tail)),
        ]);
        let bytes = KIND.seal(metadata, &self.state.tensors(0)?);
        let bytes = bytes.map_err(|reason| bad(path, reason))?;
        atomic::write(path, &bytes).map_err(Error::io("write", path))
    }

    /// Reads a file that [`save`](Self::save) wrote.
    ///
    /// # Errors
    /// [`Error::State`] if the file is damaged, of another version or of another model.
    pub fn load(model: &Model, path: &Path) -> Result<Self> {
        let config = model.config();
        // Nothing of ours is larger; a hostile file must not fill the memory.
        let limit = config.state_bytes(4) as u64 + (16 << 20) + 16 * 1024 * config.n_layer as u64;
        let size = std::fs::metadata(path).map_err(Error::io("read", path))?.len();
        if size > limit {
            return Err(bad(path, format!("{size} bytes, more than a state of this model has")));
        }
        let bytes = std::fs::read(path).map_err(Error::io("read", path))?;
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
        let context = Self {
            state,
            read: parse(path, "read", text("read"))?,
            pending: parse(path, "pending", text("pending"))?,
            recent: parse(path, "recent", text("recent"))?,
            rng: parse(path, "rng", text("rng"))?,
            tail: parse(path, "tail", text("tail"))?,
        };
        let foreign = |id: &&u32| **id as usize >= config.vocab_size;
        if let Some(id) = context.pending.iter().chain(&context.recent).find(foreign) {
            return Err(bad(path, format!("token id {id} is outside the vocabulary")));
        }
        Ok(context)
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
pub(crate) fn array(
    path: &Path,
    file: &SafeTensors<'_>,
    name: &str,
    shape: &[usize],
) -> Result<Array> {
    let view = file.tensor(name).map_err(|_| missing(path, name))?;
    let tensor = FloatTensor::read(name, &view)
        .map_err(|found| bad(path, format!("{name} is {found:?}, expected F32")))?;
    shaped(path, &tensor, shape)
}

/// A tensor of a file that was read already.
pub(crate) fn read_array(
    path: &Path,
    tensors: &BTreeMap<String, FloatTensor>,
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
