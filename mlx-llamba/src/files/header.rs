//! The header of one safetensors file.
//!
//! Nothing behind this point sees a header that was not accepted here. MLX's own parser never
//! sees a file's header at all: it is given one that [`lazy`](super::lazy) writes.

use std::collections::HashMap;

use safetensors::{Dtype, SafeTensors};

use super::source::Source;
use crate::error::{Error, Result, printable};

/// Dtype of a stored tensor, as far as a Llamba may have it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Stored {
    pub(crate) name: String,
    pub(crate) dtype: Dtype,
    pub(crate) shape: Vec<usize>,
    /// First byte in the file.
    pub(crate) start: usize,
    pub(crate) bytes: usize,
}

/// Metadata and tensors of a file, in the order of their bytes.
#[derive(Debug)]
pub(crate) struct Header {
    pub(crate) metadata: HashMap<String, String>,
    pub(crate) tensors: Vec<Stored>,
}

/// Reads and checks the header: its length (below 100 MB and inside the file), its JSON, and that
/// the tensors' bytes follow each other without holes or overlaps from its end to the end of the
/// file, each of the length that its shape and dtype ask for.
pub(crate) fn read(source: &Source) -> Result<Header> {
    let bytes = source.bytes();
    let (length, header) = SafeTensors::read_metadata(bytes).map_err(|error| Error::Header {
        path: source.path.clone(),
        reason: explain(&error, bytes),
    })?;
    let data = length + 8;
    let names = header.offset_keys();
    // Names stand in messages and in headers written here.
    if let Some(name) =
        names.iter().find(|name| name.len() > 256 || name.contains(char::is_control))
    {
        let reason = format!("a tensor is called {:?}", printable(name));
        return Err(Error::Header { path: source.path.clone(), reason });
    }
    let tensors = names
        .into_iter()
        .filter_map(|name| {
            let info = header.info(&name)?;
            let (start, end) = info.data_offsets;
            Some(Stored {
                name,
                dtype: info.dtype,
                shape: info.shape.clone(),
                start: data + start,
                bytes: end - start,
            })
        })
        .collect();
    Ok(Header { metadata: header.metadata().clone().unwrap_or_default(), tensors })
}

/// The crate's message, with the file's length where the length is what is wrong.
fn explain(error: &safetensors::SafeTensorError, bytes: &[u8]) -> String {
    use safetensors::SafeTensorError as E;
    let declared = bytes.first_chunk::<8>().map(|&n| u64::from_le_bytes(n));
    match (error, declared) {
        (E::HeaderTooSmall, _) => format!("{} bytes are no header", bytes.len()),
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
