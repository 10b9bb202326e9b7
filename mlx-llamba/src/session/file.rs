//! Sessions as files: safetensors with the state of every context, and the rest as JSON in the
//! metadata. Everything in them is the same on every machine.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::transcript::{Entry, Transcript};
use super::{Session, Snapshots};
use crate::context::{self, Context, Position};
use crate::error::{Error, Result, printable};
use crate::files::FloatTensor;
use crate::files::atomic;
use crate::files::sealed::{Kind, Metadata};
use crate::llamba::Llamba;
use crate::snapshots::SnapshotBudget;
use crate::template::{ChatOptions, Template};

pub(super) const KIND: Kind = Kind {
    format: "mlx-llamba-session",
    version: "1",
    unsealed_version: None,
    name: "a saved session of mlx-llamba",
};

/// The number of snapshots saved: enough to undo or regenerate the last turn, and the first one.
const SAVED: usize = 4;
/// The most contexts in a file: a hostile file must not exhaust memory.
const CONTEXTS: u64 = 64;
/// The most bytes of text and tokens in a file.
const TEXT: u64 = 256 << 20;

/// The JSON under the metadata key `session`.
#[derive(Serialize, Deserialize)]
pub(super) struct Saved {
    pub(super) model: String,
    pub(super) tokenizer: String,
    pub(super) source: String,
    template: SavedTemplate,
    options: ChatOptions,
    pub(super) entries: Vec<Entry>,
    /// The snapshot budget in bytes.
    budget: usize,
    /// The context reached, then the snapshots. Names of their tensors begin with `{i}.`.
    pub(super) places: Vec<Place>,
}

#[derive(Serialize, Deserialize)]
struct SavedTemplate {
    name: String,
    source: String,
}

/// A [`Context`] without its state.
#[derive(Serialize, Deserialize)]
pub(super) struct Place {
    pub(super) covered: usize,
    #[serde(flatten)]
    position: Position,
}

/// A saved session without its model. Conversion from and to bytes takes long and can be done on
/// any thread; conversion from and to a [`Session`] only copies.
pub struct SessionFile {
    /// The name in errors.
    name: PathBuf,
    saved: Saved,
    /// By name.
    tensors: BTreeMap<String, FloatTensor>,
}

impl SessionFile {
    /// Parses the bytes of a file; `name` is used in errors.
    ///
    /// # Errors
    /// [`Error::State`] if they are damaged or of another version.
    pub fn from_bytes(bytes: &[u8], name: impl Into<PathBuf>) -> Result<Self> {
        let name = name.into();
        let refused = |reason: String| bad(&name, reason);
        let (metadata, file) = KIND.open(bytes).map_err(refused)?;
        let saved = parse(&metadata).map_err(refused)?;
        check(&saved).map_err(refused)?;
        let mut tensors = BTreeMap::new();
        for (name, view) in file {
            let tensor = FloatTensor::read(&name, &view)
                .map_err(|found| refused(format!("damaged: {name} is {found:?}, expected F32")))?;
            tensors.insert(name, tensor);
        }
        Ok(Self { name, saved, tensors })
    }

    /// The bytes of the file.
    ///
    /// # Errors
    /// [`Error::State`] if something in it cannot be written.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        let unwritable = |reason: String| bad(&self.name, reason);
        let json = serde_json::to_string(&self.saved).map_err(|e| unwritable(e.to_string()))?;
        let metadata = Metadata::from([("session".to_owned(), json)]);
        KIND.seal(metadata, self.tensors.values()).map_err(unwritable)
    }

    /// The source of the conversation's chat template. It is a program written by the author of the
    /// file.
    #[must_use]
    pub fn template(&self) -> &str {
        &self.saved.template.source
    }

    /// The tensors of the context reached, ordered by name.
    pub(super) fn state(self) -> Vec<FloatTensor> {
        let reached = self.tensors.into_values().filter_map(|tensor| {
            let name = tensor.name.strip_prefix("0.")?.to_owned();
            Some(FloatTensor { name, ..tensor })
        });
        reached.collect()
    }
}

impl<'m> Session<'m> {
    /// Returns the contents of the file that [`save`](Self::save) writes.
    ///
    /// # Errors
    /// [`Error::Mlx`] if the state cannot be computed.
    pub fn to_file(&self) -> Result<SessionFile> {
        let transcript = &self.transcript;
        let first = self.snapshots.iter().next().into_iter();
        let newest = self.snapshots.iter().skip(1).collect::<Vec<_>>();
        let newest = newest[newest.len().saturating_sub(SAVED - 1)..].iter().copied();
        let places: Vec<(usize, &Context)> =
            [(self.covered, &self.context)].into_iter().chain(first).chain(newest).collect();
        let mut tensors = BTreeMap::new();
        for (i, (_, context)) in places.iter().enumerate() {
            for mut tensor in context.state.tensors(0)? {
                tensor.name = format!("{i}.{}", tensor.name);
                tensors.insert(tensor.name.clone(), tensor);
            }
        }
        let saved = Saved {
            model: self.llamba.model().fingerprint().to_owned(),
            tokenizer: transcript.tokenizer.fingerprint().to_owned(),
            source: self.source.clone(),
            template: SavedTemplate {
                name: transcript.template.name().to_owned(),
                source: transcript.template.source().to_owned(),
            },
            options: transcript.options.clone(),
            entries: transcript.entries.clone(),
            budget: self.snapshots.budget().bytes,
            places: places
                .iter()
                .map(|(covered, context)| Place {
                    covered: *covered,
                    position: context.position.clone(),
                })
                .collect(),
        };
        Ok(SessionFile { name: "session".into(), saved, tensors })
    }

    /// Restores a saved session.
    ///
    /// # Errors
    /// [`Error::State`] if it is of another model or tokenizer, [`Error::Template`] if its template
    /// does not compile.
    pub fn from_file(llamba: &'m Llamba, file: SessionFile) -> Result<Self> {
        let SessionFile { name, saved, tensors } = file;
        belongs(llamba, &saved).map_err(|reason| bad(&name, reason))?;
        let tokenizer = llamba.require_tokenizer()?;
        let mut contexts = Vec::with_capacity(saved.places.len());
        for (i, place) in saved.places.into_iter().enumerate() {
            let state = context::state(llamba.model(), |tensor, shape| {
                context::read_array(&name, &tensors, &format!("{i}.{tensor}"), shape)
            })?;
            contexts.push((place.covered, Context { state, position: place.position }));
        }
        let mut contexts = contexts.into_iter();
        let Some((covered, context)) = contexts.next() else {
            return Err(bad(&name, "damaged: it has no state".to_owned()));
        };
        let mut snapshots = Snapshots::new(SnapshotBudget { bytes: saved.budget });
        for (place, context) in contexts {
            snapshots.insert(place, &context)?;
        }
        // The tokenizer's own template also has one for tools.
        let own = Template::of(tokenizer, None).ok();
        let template = match own.filter(|own| own.source() == saved.template.source) {
            Some(own) => own,
            None => Template::new(&saved.template.name, &saved.template.source, tokenizer)?,
        };
        Ok(Self {
            llamba,
            transcript: Transcript {
                tokenizer: tokenizer.clone(),
                template,
                options: saved.options,
                entries: saved.entries,
            },
            start: llamba.context()?,
            context,
            covered,
            snapshots,
            tokens_read: 0,
            source: saved.source,
        })
    }
}

pub(super) fn save(session: &Session<'_>, path: &Path) -> Result<()> {
    let bytes = session.to_file()?.to_bytes()?;
    atomic::write_private(path, &bytes).map_err(Error::io("write", path))
}

pub(super) fn load<'m>(llamba: &'m Llamba, path: &Path) -> Result<Session<'m>> {
    let config = llamba.model().config();
    let limit = CONTEXTS * (config.state_bytes(4) as u64 + 65536) + TEXT;
    Session::from_file(llamba, SessionFile::from_bytes(&read(path, limit)?, path)?)
}

/// Reads a file of at most `limit` bytes.
pub(super) fn read(path: &Path, limit: u64) -> Result<Vec<u8>> {
    let io = |source| Error::Io { action: "read", path: path.to_owned(), source };
    let found = std::fs::metadata(path).map_err(io)?;
    if !found.is_file() {
        return Err(bad(path, "not a regular file".to_owned()));
    }
    if found.len() > limit {
        return Err(bad(path, format!("{} bytes, more than any session has", found.len())));
    }
    std::fs::read(path).map_err(io)
}

pub(super) fn parse(metadata: &Metadata) -> Result<Saved, String> {
    let json = metadata.get("session").map_or("", String::as_str);
    serde_json::from_str(json).map_err(|e| format!("damaged: {e}"))
}

/// Refuses sessions of other models.
fn belongs(llamba: &Llamba, saved: &Saved) -> Result<(), String> {
    let tokenizer = llamba.require_tokenizer().map_err(|e| e.to_string())?;
    for (what, found, this) in [
        ("model", &saved.model, llamba.model().fingerprint()),
        ("tokenizer", &saved.tokenizer, tokenizer.fingerprint()),
    ] {
        if found != this {
            let hint = match saved.source.as_str() {
                "" => String::new(),
                source => format!("; it was made with {}", printable(source)),
            };
            return Err(format!(
                "it belongs to another {what} ({found}, this one is {this:.12}){hint}",
                found = printable(found.get(..12).unwrap_or_default()),
            ));
        }
    }
    let vocab_size = llamba.model().config().vocab_size;
    let ids = saved.entries.iter().flat_map(|entry| &entry.ids);
    let more = saved.places.iter().map(|place| &place.position);
    let more = more.flat_map(|position| position.pending.iter().chain(&position.recent));
    match ids.chain(more).find(|id| **id as usize >= vocab_size) {
        Some(id) => Err(format!("damaged: token id {id} is outside the vocabulary")),
        None => Ok(()),
    }
}

/// Checks the invariants of a session.
fn check(saved: &Saved) -> Result<(), String> {
    let read = saved.entries.iter().take_while(|entry| entry.read).count();
    let order = saved.entries.iter().enumerate().all(|(i, entry)| {
        entry.read == (i < read)
            && (entry.read || entry.ids.is_empty())
            && !(i == 0 && entry.joined)
            && entry.closing.unwrap_or(0) <= entry.ids.len()
    });
    let tokens: usize = saved.entries.iter().map(|entry| entry.ids.len()).sum();
    let places = saved.places.iter().all(|place| {
        let Position { read, pending, tail, .. } = &place.position;
        let covered = read.checked_add(pending.len() as u64);
        covered == Some(place.covered as u64) && place.covered <= tokens && tail.len() <= 3
    });
    if order && places {
        return Ok(());
    }
    Err("damaged: its messages and its states do not fit together".to_owned())
}

fn bad(path: &Path, reason: String) -> Error {
    Error::State { path: path.to_owned(), reason }
}
