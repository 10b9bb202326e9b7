//! Inspection of saved sessions without their model.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::file::{self, KIND, Saved, SessionFile};
use crate::error::{Error, Result};
use crate::files::FloatTensor;
use crate::template::Message;

/// The size of the largest header that is read.
const HEADER: u64 = 256 << 20;

/// A summary of a saved session.
#[non_exhaustive]
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SessionInfo {
    /// The file.
    pub path: PathBuf,
    /// The size of the file in bytes.
    pub bytes: u64,
    /// The name under which the model was loaded; empty if unknown.
    pub source: String,
    /// The fingerprint of the model.
    pub model: String,
    /// The fingerprint of the tokenizer.
    pub tokenizer: String,
    /// The messages.
    pub messages: Vec<Message>,
    /// The number of tokens of each message.
    pub message_tokens: Vec<usize>,
    /// All tokens that were read and sampled.
    #[serde(skip)]
    pub tokens: Vec<u32>,
    /// The numbers of tokens before the saved states; the first is that of the context reached.
    pub states: Vec<usize>,
}

impl SessionInfo {
    /// Reads the header of a file written by [`Session::save`](crate::Session::save). The states are
    /// neither read nor checked for damage.
    ///
    /// # Errors
    /// [`Error::State`] if the file is not a saved session, or of another version.
    pub fn load(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let io = |source| Error::Io { action: "read", path: path.to_owned(), source };
        let bad = |reason: String| Error::State { path: path.to_owned(), reason };
        // Opening a pipe would wait for its other end.
        let found = std::fs::metadata(path).map_err(io)?;
        if !found.is_file() {
            return Err(bad("not a regular file".to_owned()));
        }
        let mut input = File::open(path).map_err(io)?;
        let mut bytes = vec![0; 8.min(found.len() as usize)];
        input.read_exact(&mut bytes).map_err(io)?;
        let length = bytes.first_chunk().map_or(0, |length| u64::from_le_bytes(*length));
        if length > HEADER {
            return Err(bad(format!("not {}", KIND.name)));
        }
        input.take(length).read_to_end(&mut bytes).map_err(io)?;
        let saved: Saved =
            KIND.metadata(&bytes).and_then(|metadata| file::parse(&metadata)).map_err(bad)?;
        Ok(Self {
            path: path.to_owned(),
            bytes: found.len(),
            source: saved.source,
            model: saved.model,
            tokenizer: saved.tokenizer,
            message_tokens: saved.entries.iter().map(|entry| entry.ids.len()).collect(),
            tokens: saved.entries.iter().flat_map(|entry| entry.ids.iter().copied()).collect(),
            states: saved.places.iter().map(|place| place.covered).collect(),
            messages: saved.entries.into_iter().map(|entry| entry.message).collect(),
        })
    }

    /// Reads the state of the context reached and checks the whole file for damage. Returns the
    /// tensors ordered by name.
    ///
    /// # Errors
    /// [`Error::State`] if the file is damaged.
    pub fn state(&self) -> Result<Vec<FloatTensor>> {
        Ok(SessionFile::from_bytes(&file::read(&self.path, u64::MAX)?, &self.path)?.state())
    }
}
