//! A place in a text, to go on from: now, from a copy, or from a file another day.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use mlx_llamba_kernels::MixerState;
use mlx_rs::{Array, Dtype};
use safetensors::SafeTensors;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::{Error, Result};
use crate::floats::FloatTensor;
use crate::language::LanguageModel;
use crate::model::Model;
use crate::state::State;

/// Value of the metadata key `format` in saved contexts.
const FORMAT: &str = "mlx-llamba-state";
/// Version of the file's layout.
const VERSION: &str = "1";
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
    /// `layers.{i}.conv_state` (k-1, conv_dim), float32, and the rest as metadata. The file
    /// appears whole or not at all.
    ///
    /// # Errors
    /// [`Error::Io`] if the file cannot be written.
    pub fn save(&self, model: &Model, path: &Path) -> Result<()> {
        let tensors = self.state.tensors(0)?;
        let metadata = HashMap::from([
            ("format".to_owned(), FORMAT.to_owned()),
            ("version".to_owned(), VERSION.to_owned()),
            ("model".to_owned(), model.fingerprint().to_owned()),
            ("read".to_owned(), self.read.to_string()),
            ("pending".to_owned(), json(&self.pending)),
            ("recent".to_owned(), json(&self.recent)),
            ("rng".to_owned(), json(&self.rng)),
            ("tail".to_owned(), json(&self.tail)),
        ]);
        FloatTensor::save(&tensors, metadata, path)
    }

    /// Reads a file that [`save`](Self::save) wrote.
    ///
    /// # Errors
    /// [`Error::State`] if the file is damaged, of another version or of another model.
    pub fn load(model: &Model, path: &Path) -> Result<Self> {
        let io = |source| Error::Io { action: "read", path: path.to_owned(), source };
        let config = model.config();
        // Nothing of ours is larger; a hostile file must not fill the memory.
        let limit = config.state_bytes(4) as u64 + (16 << 20) + 16 * 1024 * config.n_layer as u64;
        let size = std::fs::metadata(path).map_err(io)?.len();
        if size > limit {
            return Err(bad(path, format!("{size} bytes, more than a state of this model has")));
        }
        let bytes = std::fs::read(path).map_err(io)?;
        let damaged = |e: safetensors::SafeTensorError| bad(path, format!("damaged: {e}"));
        let (_, header) = SafeTensors::read_metadata(&bytes).map_err(damaged)?;
        let none = HashMap::new();
        let metadata = header.metadata().as_ref().unwrap_or(&none);
        let text = |key: &str| metadata.get(key).map_or("", String::as_str);
        if text("format") != FORMAT {
            return Err(bad(path, "not a saved state of mlx-llamba".to_owned()));
        }
        if text("version") != VERSION {
            let found = text("version");
            return Err(bad(path, format!("version {found} of the format, expected {VERSION}")));
        }
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

        let file = SafeTensors::deserialize(&bytes).map_err(damaged)?;
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
    if view.dtype() != safetensors::Dtype::F32 || view.shape() != shape {
        let found = format!("{:?} {:?}", view.dtype(), view.shape());
        return Err(bad(path, format!("{name} is {found}, expected F32 {shape:?}")));
    }
    let (words, _) = view.data().as_chunks::<4>();
    let values: Vec<f32> = words.iter().map(|&word| f32::from_le_bytes(word)).collect();
    single(&values, shape)
}

/// A tensor of a file that was read already.
pub(crate) fn read_array(
    path: &Path,
    tensors: &BTreeMap<String, FloatTensor>,
    name: &str,
    shape: &[usize],
) -> Result<Array> {
    let tensor = tensors.get(name).ok_or_else(|| missing(path, name))?;
    if tensor.shape != shape {
        return Err(bad(path, format!("{name} is {:?}, expected {shape:?}", tensor.shape)));
    }
    single(&tensor.values, shape)
}

fn missing(path: &Path, name: &str) -> Error {
    bad(path, format!("{name} is missing"))
}

/// Values as (1, ..shape).
fn single(values: &[f32], shape: &[usize]) -> Result<Array> {
    let shape: Vec<i32> = [1].into_iter().chain(shape.iter().map(|&s| s as i32)).collect();
    if values.is_empty() {
        return Ok(mlx_rs::ops::zeros_dtype(&shape, Dtype::Float32)?);
    }
    Ok(Array::from_slice(values, &shape))
}
