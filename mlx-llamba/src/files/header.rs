//! The header of a safetensors file.
//!
//! No other code sees a header that was not accepted here. MLX's own parser never sees a file's
//! header: [`lazy`](super::lazy) writes one for each tensor.

use std::collections::HashMap;
use std::sync::Arc;

use safetensors::SafeTensors;

use super::{Source, StoredTensor, TensorHeader, json};
use crate::error::{Error, Result, printable};

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
    let (length, header) = SafeTensors::read_metadata(bytes).map_err(|error| Error::Header {
        path: source.path.clone(),
        reason: explain(&error, bytes),
    })?;
    let data = length + 8;
    let names = header.offset_keys();
    // Names appear in messages.
    if let Some(name) =
        names.iter().find(|name| name.len() > 256 || name.contains(char::is_control))
    {
        let reason = format!("a tensor's name is {:?}", printable(name));
        return Err(Error::Header { path: source.path.clone(), reason });
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

/// Describes what is wrong, with the file's length where that matters.
fn explain(error: &safetensors::SafeTensorError, bytes: &[u8]) -> String {
    use safetensors::SafeTensorError as E;
    if let Some(kind) = json::kind(bytes) {
        return format!("it is {kind}");
    }
    let declared = bytes.first_chunk::<8>().map(|&n| u64::from_le_bytes(n));
    match (error, declared) {
        (E::HeaderTooSmall, _) => {
            format!("{} bytes are too few for a header: truncated", bytes.len())
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
