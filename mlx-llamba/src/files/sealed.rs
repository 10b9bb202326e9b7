//! Safetensors files with a checksum over everything in them.

use std::collections::BTreeMap;

use safetensors::tensor::TensorView;
use sha2::{Digest, Sha256};

use super::floats::{FloatTensor, with_views};
use super::{Views, hash, header};

/// The metadata key of the checksum.
const SUM: &str = "sha256";

/// A kind of file: the metadata that identifies it.
pub(crate) struct Kind {
    /// The metadata `format`.
    pub(crate) format: &'static str,
    /// The metadata `version`.
    pub(crate) version: &'static str,
    /// An older version, whose files have the same layout but no checksum.
    pub(crate) unsealed_version: Option<&'static str>,
    /// The name in messages, such as "a saved session of mlx-llamba".
    pub(crate) name: &'static str,
}

/// The metadata of a file.
pub(crate) type Metadata = BTreeMap<String, String>;

impl Kind {
    /// The bytes of a file with these contents; the error says what cannot be written.
    pub(crate) fn seal<'t>(
        &self,
        mut metadata: Metadata,
        tensors: impl IntoIterator<Item = &'t FloatTensor>,
    ) -> Result<Vec<u8>, String> {
        metadata.insert("format".to_owned(), self.format.to_owned());
        metadata.insert("version".to_owned(), self.version.to_owned());
        with_views(tensors, |views| {
            metadata.insert(SUM.to_owned(), checksum(&metadata, &views));
            safetensors::serialize(views, Some(metadata.into_iter().collect()))
        })
        .map_err(|e| e.to_string())
    }

    /// Reads a file and checks its checksum; the error says what is wrong with it.
    pub(crate) fn open<'a>(&self, bytes: &'a [u8]) -> Result<(Metadata, Views<'a>), String> {
        // Says first that it is another file.
        self.metadata(bytes)?;
        let (metadata, views) = header::views(bytes).map_err(damaged)?;
        let metadata: Metadata = metadata.into_iter().collect();
        let unsealed = self.unsealed_version == metadata.get("version").map(String::as_str);
        match metadata.get(SUM) {
            None if unsealed => {}
            // A sealed file whose version was changed has a checksum still.
            Some(sum) if !unsealed && *sum == checksum(&metadata, &views) => {}
            _ => return Err(damaged("the checksum does not match its contents")),
        }
        Ok((metadata, views))
    }

    /// The metadata alone, of bytes that may end after the header.
    pub(crate) fn metadata(&self, bytes: &[u8]) -> Result<Metadata, String> {
        let length = bytes.first_chunk().map_or(0, |length| u64::from_le_bytes(*length));
        let end = usize::try_from(length).ok().and_then(|length| length.checked_add(8));
        let header = end.and_then(|end| bytes.get(8..end));
        let header =
            header.ok_or_else(|| format!("not {}, or damaged: it has no header", self.name))?;
        let metadata: Metadata = header::metadata(header).map_err(damaged)?.into_iter().collect();
        let text = |key: &str| metadata.get(key).map_or("", String::as_str);
        if text("format") != self.format {
            return Err(format!("not {}", self.name));
        }
        if text("version") != self.version && Some(text("version")) != self.unsealed_version {
            let (found, this) = (text("version"), self.version);
            return Err(format!("version {found:.12} of the format, expected {this}"));
        }
        Ok(metadata)
    }
}

/// The same file with a checksum that fits, to try what follows the checksum; `None` for something that
/// is no file.
#[doc(hidden)]
pub fn resealed(bytes: &[u8]) -> Option<Vec<u8>> {
    let (metadata, views) = header::views(bytes).ok()?;
    let mut metadata: Metadata = metadata.into_iter().collect();
    metadata.insert(SUM.to_owned(), checksum(&metadata, &views));
    safetensors::serialize(views, Some(metadata.into_iter().collect())).ok()
}

fn damaged(reason: impl std::fmt::Display) -> String {
    format!("damaged: {reason}")
}

/// The SHA-256 of all metadata but the checksum itself and of all tensors, by name.
fn checksum<N: AsRef<str> + Ord>(
    metadata: &Metadata,
    tensors: &BTreeMap<N, TensorView<'_>>,
) -> String {
    let mut sum = Sha256::new();
    let mut add = |bytes: &[u8]| {
        sum.update((bytes.len() as u64).to_le_bytes());
        sum.update(bytes);
    };
    for (key, value) in metadata.iter().filter(|(key, _)| *key != SUM) {
        add(key.as_bytes());
        add(value.as_bytes());
    }
    for (name, tensor) in tensors {
        add(name.as_ref().as_bytes());
        add(format!("{:?} {:?}", tensor.dtype(), tensor.shape()).as_bytes());
        add(tensor.data());
    }
    hash::hex(&sum.finalize())
}
