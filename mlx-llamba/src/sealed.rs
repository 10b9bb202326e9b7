//! Files whose every bit is accounted for: safetensors with a checksum over all that they say.

use std::collections::BTreeMap;

use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use sha2::{Digest, Sha256};

use crate::floats::FloatTensor;
use crate::hash;

/// The metadata key of the checksum.
const SUM: &str = "sha256";

/// What a kind of file is called, and the version of its layout.
pub(crate) struct Kind {
    pub(crate) format: &'static str,
    pub(crate) version: &'static str,
    /// For messages: "a saved session of mlx-llamba".
    pub(crate) what: &'static str,
}

/// A file's metadata.
pub(crate) type Metadata = BTreeMap<String, String>;

impl Kind {
    /// The bytes of a file; the error says what cannot be written.
    pub(crate) fn seal<'t>(
        &self,
        mut metadata: Metadata,
        tensors: impl IntoIterator<Item = &'t FloatTensor>,
    ) -> Result<Vec<u8>, String> {
        let tensors: Vec<&FloatTensor> = tensors.into_iter().collect();
        metadata.insert("format".to_owned(), self.format.to_owned());
        metadata.insert("version".to_owned(), self.version.to_owned());
        let bytes: Vec<Vec<u8>> = tensors
            .iter()
            .map(|tensor| tensor.values.iter().flat_map(|v| v.to_le_bytes()).collect())
            .collect();
        let views: Result<BTreeMap<&str, _>, _> = tensors
            .iter()
            .zip(&bytes)
            .map(|(tensor, bytes)| {
                let view = TensorView::new(Dtype::F32, tensor.shape.clone(), bytes)?;
                Ok((tensor.name.as_str(), view))
            })
            .collect();
        let failed = |e: safetensors::SafeTensorError| e.to_string();
        let views = views.map_err(failed)?;
        metadata.insert(SUM.to_owned(), checksum(&metadata, &views));
        safetensors::serialize(views, Some(metadata.into_iter().collect())).map_err(failed)
    }

    /// Reads a file and checks every bit of it; the error says what is wrong.
    pub(crate) fn open<'a>(&self, bytes: &'a [u8]) -> Result<(Metadata, SafeTensors<'a>), String> {
        let metadata = self.metadata(bytes)?;
        let damaged = |e: &dyn std::fmt::Display| format!("damaged: {e}");
        let file = SafeTensors::deserialize(bytes).map_err(|e| damaged(&e))?;
        let views = file.iter().collect();
        if metadata.get(SUM) != Some(&checksum(&metadata, &views)) {
            return Err(damaged(&"its checksum does not fit"));
        }
        Ok((metadata, file))
    }

    /// The metadata alone, of a file of which only the header may be there.
    pub(crate) fn metadata(&self, bytes: &[u8]) -> Result<Metadata, String> {
        #[derive(serde::Deserialize)]
        struct Header {
            #[serde(default, rename = "__metadata__")]
            metadata: Metadata,
        }
        let damaged = |e: &dyn std::fmt::Display| format!("damaged: {e}");
        let length = bytes.first_chunk().map_or(0, |length| u64::from_le_bytes(*length));
        let end = usize::try_from(length).ok().and_then(|length| length.checked_add(8));
        let header = end.and_then(|end| bytes.get(8..end)).ok_or_else(|| damaged(&"no header"))?;
        let header: Header = serde_json::from_slice(header).map_err(|e| damaged(&e))?;
        let text = |key: &str| header.metadata.get(key).map_or("", String::as_str);
        if text("format") != self.format {
            return Err(format!("not {}", self.what));
        }
        if text("version") != self.version {
            let (found, this) = (text("version"), self.version);
            return Err(format!("version {found:.12} of the format, expected {this}"));
        }
        Ok(header.metadata)
    }
}

/// Of all metadata but the checksum itself, and of all tensors, in the order of their names.
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
