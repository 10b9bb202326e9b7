//! Sessions as files: safetensors with the state of every context, and the rest as JSON in the
//! metadata. Everything in them is the same on every machine.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::transcript::{Entry, Transcript};
use super::{Session, Snapshots};
use crate::atomic;
use crate::context::{self, Context};
use crate::error::{Error, Result, printable};
use crate::llamba::Llamba;
use crate::sealed::{Kind, Metadata};
use crate::snapshots::SnapshotBudget;
use crate::template::{ChatOptions, Template};

pub(super) const KIND: Kind =
    Kind { format: "mlx-llamba-session", version: "1", what: "a saved session of mlx-llamba" };

/// Snapshots that are saved: enough to undo or rewrite the last turn, and to go on from the first.
const SAVED: usize = 4;
/// Contexts that a file may hold: a hostile one must not fill the memory.
const CONTEXTS: u64 = 64;
/// Bytes of text and tokens that a file may hold.
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
    /// Bytes for snapshots.
    budget: usize,
    /// The place reached, then the snapshots. Their tensors begin with `{i}.`.
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
    read: u64,
    pending: Vec<u32>,
    recent: Vec<u32>,
    rng: Option<[u32; 2]>,
    tail: Vec<u8>,
}

impl Place {
    fn of(covered: usize, context: &Context) -> Self {
        Self {
            covered,
            read: context.read,
            pending: context.pending.clone(),
            recent: context.recent.clone(),
            rng: context.rng,
            tail: context.tail.clone(),
        }
    }
}

pub(super) fn to_bytes(session: &Session<'_>) -> Result<Vec<u8>> {
    let transcript = &session.transcript;
    let first = session.snapshots.iter().next().into_iter();
    let newest = session.snapshots.iter().skip(1).collect::<Vec<_>>();
    let newest = newest[newest.len().saturating_sub(SAVED - 1)..].iter().copied();
    let places: Vec<(usize, &Context)> =
        [(session.covered, &session.context)].into_iter().chain(first).chain(newest).collect();
    let mut tensors = Vec::new();
    for (i, (_, context)) in places.iter().enumerate() {
        for mut tensor in context.state.tensors(0)? {
            tensor.name = format!("{i}.{}", tensor.name);
            tensors.push(tensor);
        }
    }
    let saved = Saved {
        model: session.llamba.model().fingerprint().to_owned(),
        tokenizer: transcript.tokenizer.fingerprint().to_owned(),
        source: session.source.clone(),
        template: SavedTemplate {
            name: transcript.template.name().to_owned(),
            source: transcript.template.source().to_owned(),
        },
        options: transcript.options.clone(),
        entries: transcript.entries.clone(),
        budget: session.snapshots.budget().bytes,
        places: places.iter().map(|(covered, context)| Place::of(*covered, context)).collect(),
    };
    let unwritable = |reason: String| Error::State { path: "session".into(), reason };
    let json = serde_json::to_string(&saved).map_err(|e| unwritable(e.to_string()))?;
    let metadata = Metadata::from([("session".to_owned(), json)]);
    KIND.seal(metadata, &tensors).map_err(unwritable)
}

pub(super) fn save(session: &Session<'_>, path: &Path) -> Result<()> {
    let bytes = to_bytes(session)?;
    let failed = |source| Error::Io { action: "write", path: path.to_owned(), source };
    atomic::write(path, &bytes).map_err(failed)
}

pub(super) fn load<'m>(llamba: &'m Llamba, path: &Path) -> Result<Session<'m>> {
    let config = llamba.model().config();
    let limit = CONTEXTS * (config.state_bytes(4) as u64 + 65536) + TEXT;
    from_bytes(llamba, &read(path, limit)?, path)
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

pub(super) fn from_bytes<'m>(llamba: &'m Llamba, bytes: &[u8], path: &Path) -> Result<Session<'m>> {
    let refused = |reason: String| bad(path, reason);
    let saved = parse(&KIND.metadata(bytes).map_err(refused)?).map_err(refused)?;
    let tokenizer = llamba.require_tokenizer()?;
    // Said before anything else is checked: it is the likeliest mistake.
    for (what, found, this) in [
        ("model", &saved.model, llamba.model().fingerprint()),
        ("tokenizer", &saved.tokenizer, tokenizer.fingerprint()),
    ] {
        if found != this {
            let hint = match saved.source.as_str() {
                "" => String::new(),
                source => format!("; it was made with {}", printable(source)),
            };
            return Err(refused(format!(
                "it belongs to another {what} ({found}, this one is {this:.12}){hint}",
                found = printable(found.get(..12).unwrap_or_default()),
            )));
        }
    }
    let (_, file) = KIND.open(bytes).map_err(refused)?;
    check(&saved, llamba.model().config().vocab_size).map_err(refused)?;
    let mut contexts = Vec::with_capacity(saved.places.len());
    for (i, place) in saved.places.into_iter().enumerate() {
        let state = context::state(path, &file, &format!("{i}."), llamba.model())?;
        let Place { covered, read, pending, recent, rng, tail } = place;
        contexts.push((covered, Context { state, read, pending, recent, rng, tail }));
    }
    let mut contexts = contexts.into_iter();
    let Some((covered, context)) = contexts.next() else {
        return Err(refused("damaged: it has no state".to_owned()));
    };
    let mut snapshots = Snapshots::new(SnapshotBudget { bytes: saved.budget });
    for (place, context) in contexts {
        snapshots.insert(place, &context)?;
    }
    let template = Template::new(&saved.template.name, &saved.template.source, tokenizer)?;
    Ok(Session {
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

pub(super) fn parse(metadata: &Metadata) -> Result<Saved, String> {
    let json = metadata.get("session").map_or("", String::as_str);
    serde_json::from_str(json).map_err(|e| format!("damaged: {e}"))
}

/// What the rest of the library takes for granted of a session.
fn check(saved: &Saved, vocab_size: usize) -> Result<(), String> {
    let read = saved.entries.iter().take_while(|entry| entry.read).count();
    let order = saved.entries.iter().enumerate().all(|(i, entry)| {
        entry.read == (i < read)
            && (entry.read || entry.ids.is_empty())
            && !(i == 0 && entry.joined)
            && entry.closing.unwrap_or(0) <= entry.ids.len()
    });
    let tokens: usize = saved.entries.iter().map(|entry| entry.ids.len()).sum();
    let places = saved.places.iter().all(|place| {
        let covered = place.read.checked_add(place.pending.len() as u64);
        covered == Some(place.covered as u64) && place.covered <= tokens && place.tail.len() <= 3
    });
    let ids = saved.entries.iter().flat_map(|entry| &entry.ids);
    let more = saved.places.iter().flat_map(|place| place.pending.iter().chain(&place.recent));
    if !order || !places {
        return Err("damaged: its messages and its states do not fit together".to_owned());
    }
    match ids.chain(more).find(|id| **id as usize >= vocab_size) {
        Some(id) => Err(format!("damaged: token id {id} is outside the vocabulary")),
        None => Ok(()),
    }
}

fn bad(path: &Path, reason: String) -> Error {
    Error::State { path: path.to_owned(), reason }
}
