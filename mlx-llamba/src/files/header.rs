//! The header of a safetensors file.
//!
//! No other code sees a header that was not accepted here. MLX's own parser never sees a file's
//! header: [`lazy`](super::lazy) writes one for each tensor.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;

use safetensors::SafeTensorError;
use safetensors::tensor::{Metadata, TensorInfo, TensorView};
use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};

use super::{Source, StoredTensor, TensorHeader, json};
use crate::error::{Error, Result, printable};
use crate::units;

/// The most bytes of a header, as in the `safetensors` library.
const MAX_HEADER: usize = 100_000_000;
/// The most bytes of a text in a header. Errors repeat texts.
const MAX_TEXT: usize = 1 << 20;
/// The most axes of a tensor.
const MAX_AXES: usize = 16;

/// Returns the most tensors, or other entries of a header, that a file of this many bytes may have: they
/// take about a kilobyte each, and the file is to take more.
pub fn most_entries(file: usize) -> usize {
    4096 + file / 1024
}

/// The metadata and the tensors of a file, in the order of their bytes.
#[derive(Debug)]
pub(crate) struct Header {
    pub(crate) metadata: HashMap<String, String>,
    pub(crate) tensors: Vec<StoredTensor>,
}

/// Reads and checks the header: its length (below 100 MB and inside the file), its JSON, and that
/// the tensors' bytes follow each other without holes or overlaps from its end to the end of the
/// file, each of the length that its shape and dtype require.
pub(crate) fn read(source: &Arc<Source>) -> Result<Header> {
    let bytes = source.bytes();
    let refused = |reason| Error::Header { path: source.path.clone(), reason };
    let (data, header) = parse(bytes, MAX_TEXT).map_err(|error| refused(explain(&error, bytes)))?;
    let names = header.offset_keys();
    // Names appear in messages.
    if let Some(name) =
        names.iter().find(|name| name.len() > 256 || name.contains(char::is_control))
    {
        return Err(refused(format!("a tensor's name is {:?}", printable(name))));
    }
    let tensors = names.into_iter().filter_map(|name| {
        let info = header.info(&name)?;
        let (start, end) = info.data_offsets;
        let found = TensorHeader { name, dtype: info.dtype, shape: info.shape.clone() };
        Some(StoredTensor::new(source, found, data + start..data + end))
    });
    let tensors = tensors.collect::<Result<_>>()?;
    Ok(Header { metadata: header.metadata().clone().unwrap_or_default(), tensors })
}

/// Tensors by name.
pub type Views<'a> = BTreeMap<String, TensorView<'a>>;

/// Reads the metadata and the tensors of a whole file, by name, whose metadata may be long.
///
/// # Errors
/// A header that is damaged, or that would take far more memory than the file.
pub fn views(bytes: &[u8]) -> Result<(HashMap<String, String>, Views<'_>), SafeTensorError> {
    let (data, header) = parse(bytes, usize::MAX)?;
    let views = header.offset_keys().into_iter().filter_map(|name| {
        let TensorInfo { dtype, shape, data_offsets: (start, end) } = header.info(&name)?;
        let view = TensorView::new(*dtype, shape.clone(), bytes.get(data + start..data + end)?);
        Some(view.map(|view| (name, view)))
    });
    let views = views.collect::<Result<_, _>>()?;
    Ok((header.metadata().clone().unwrap_or_default(), views))
}

/// Reads the metadata in the text of a header.
///
/// # Errors
/// Text that is no header.
pub(crate) fn metadata(header: &[u8]) -> Result<HashMap<String, String>, serde_json::Error> {
    let (metadata, _) = entries(&mut serde_json::Deserializer::from_slice(header), header.len())?;
    Ok(metadata.unwrap_or_default())
}

/// Parses and checks a header with texts of at most `longest` bytes. Returns the offset of the tensors'
/// bytes too.
///
/// The parser of the `safetensors` library first copies everything into a tree, which takes up to 70
/// times the memory of the file.
fn parse(bytes: &[u8], longest: usize) -> Result<(usize, Metadata), SafeTensorError> {
    let length = *bytes.first_chunk().ok_or(SafeTensorError::HeaderTooSmall)?;
    let length = usize::try_from(u64::from_le_bytes(length)).unwrap_or(usize::MAX);
    if length > MAX_HEADER {
        return Err(SafeTensorError::HeaderTooLarge);
    }
    let data = 8 + length;
    let text = bytes.get(8..data).ok_or(SafeTensorError::InvalidHeaderLength)?;
    let text = std::str::from_utf8(text).map_err(SafeTensorError::InvalidHeader)?;
    let invalid = SafeTensorError::InvalidHeaderDeserialization;
    if longest_text(text.as_bytes()) > longest {
        let reason = format!("a text of more than {longest} bytes");
        return Err(invalid(serde_json::Error::custom(reason)));
    }
    let (metadata, mut tensors) =
        entries(&mut serde_json::Deserializer::from_str(text), bytes.len()).map_err(invalid)?;
    tensors.sort_by_key(|(_, info)| info.data_offsets);
    let count = tensors.len();
    let end = tensors.last().map_or(0, |(_, info)| info.data_offsets.1);
    let header = Metadata::new(metadata, tensors)?;
    if end != bytes.len() - data {
        return Err(SafeTensorError::MetadataIncompleteBuffer);
    }
    if header.offset_keys().len() != count {
        return Err(invalid(serde_json::Error::custom("two tensors have the same name")));
    }
    Ok((data, header))
}

/// Reads a whole header of a file of `file` bytes.
fn entries<'de, R: serde_json::de::Read<'de>>(
    json: &mut serde_json::Deserializer<R>,
    file: usize,
) -> Result<Entries, serde_json::Error> {
    let entries = Most(most_entries(file)).deserialize(&mut *json)?;
    json.end()?;
    Ok(entries)
}

/// The length of the longest text in JSON, in bytes.
fn longest_text(json: &[u8]) -> usize {
    let (mut longest, mut start, mut escaped) = (0, None, false);
    for (at, &byte) in json.iter().enumerate() {
        match (start, byte) {
            (None, b'"') => start = Some(at + 1),
            (Some(_), _) if escaped => escaped = false,
            (Some(_), b'\\') => escaped = true,
            (Some(from), b'"') => {
                longest = longest.max(at - from);
                start = None;
            }
            _ => {}
        }
    }
    longest.max(start.map_or(0, |from| json.len() - from))
}

/// Reads the object of a header, of at most this many entries, and texts with as many.
#[derive(Clone, Copy)]
struct Most(usize);

impl Most {
    /// Refuses one entry more than there may be.
    fn check<E: serde::de::Error>(self, count: usize) -> Result<(), E> {
        if count < self.0 {
            return Ok(());
        }
        Err(E::custom(format!("more than {} entries", self.0)))
    }
}

type Entries = (Option<HashMap<String, String>>, Vec<(String, TensorInfo)>);

impl<'de> DeserializeSeed<'de> for Most {
    type Value = Entries;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Entries, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Most {
    type Value = Entries;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a map of tensors")
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Entries, M::Error> {
        let (mut metadata, mut tensors) = (None, Vec::new());
        while let Some(name) = map.next_key::<String>()? {
            if name == "__metadata__" {
                metadata = map.next_value_seed(Texts(self))?;
            } else {
                self.check(tensors.len())?;
                let Info { dtype, shape: Shape(shape), data_offsets } = map.next_value()?;
                tensors.push((name, TensorInfo { dtype, shape, data_offsets }));
            }
        }
        Ok((metadata, tensors))
    }
}

/// Reads texts by name, or null.
struct Texts(Most);

impl<'de> DeserializeSeed<'de> for Texts {
    type Value = Option<HashMap<String, String>>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Texts {
    type Value = Option<HashMap<String, String>>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a map of texts")
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Self::Value, M::Error> {
        let mut texts = HashMap::new();
        while let Some((name, text)) = map.next_entry()? {
            self.0.check(texts.len())?;
            texts.insert(name, text);
        }
        Ok(Some(texts))
    }
}

/// The description of a tensor.
#[derive(Deserialize)]
struct Info {
    dtype: safetensors::Dtype,
    shape: Shape,
    data_offsets: (usize, usize),
}

/// At most [`MAX_AXES`] sizes.
struct Shape(Vec<usize>);

impl<'de> Deserialize<'de> for Shape {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Sizes;
        impl<'de> Visitor<'de> for Sizes {
            type Value = Shape;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of sizes")
            }

            fn visit_seq<S: SeqAccess<'de>>(self, mut list: S) -> Result<Shape, S::Error> {
                let mut shape = Vec::new();
                while let Some(size) = list.next_element()? {
                    if shape.len() == MAX_AXES {
                        return Err(S::Error::custom(format!("more than {MAX_AXES} axes")));
                    }
                    shape.push(size);
                }
                Ok(Shape(shape))
            }
        }
        deserializer.deserialize_seq(Sizes)
    }
}

/// Describes what is wrong, with the file's length where that matters.
fn explain(error: &SafeTensorError, bytes: &[u8]) -> String {
    use safetensors::SafeTensorError as E;
    if let Some(kind) = json::kind(bytes) {
        return format!("it is {kind}");
    }
    let declared = bytes.first_chunk::<8>().map(|&n| u64::from_le_bytes(n));
    match (error, declared) {
        (E::HeaderTooSmall, _) => {
            format!("{}, too few for a header: truncated", units::count(bytes.len() as u64, "byte"))
        }
        (E::HeaderTooLarge, Some(n)) => format!("header of {n} bytes, at most 100000000 allowed"),
        (E::InvalidHeaderLength, Some(n)) => {
            format!("header of {n} bytes in a file of {}: truncated", bytes.len())
        }
        (E::MetadataIncompleteBuffer, _) => format!(
            "the tensors do not end where the file does, at byte {}: truncated, or with \
             bytes that belong to none",
            bytes.len()
        ),
        (E::InvalidOffset(name), _) => {
            format!("the bytes of {:?} overlap others or leave a hole", printable(name))
        }
        _ => error.to_string(),
    }
}
