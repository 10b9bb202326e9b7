//! Float32 tensors in files.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use safetensors::Dtype;
use safetensors::tensor::TensorView;

use super::atomic;
use crate::error::{Error, Result};

/// The little-endian bytes of float32 values.
pub fn float_bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// The float32 values of little-endian bytes; up to 3 bytes at the end are ignored.
pub fn floats_of(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks().0.iter().map(|&word| f32::from_le_bytes(word)).collect()
}

/// A float32 tensor on the host.
#[derive(Debug, Clone, PartialEq)]
pub struct FloatTensor {
    /// Name in the file.
    pub name: String,
    /// Shape.
    pub shape: Vec<usize>,
    /// Values, row-major.
    pub values: Vec<f32>,
}

impl FloatTensor {
    /// Writes tensors and metadata to one safetensors file, which appears complete or not at all.
    ///
    /// # Errors
    /// [`Error::Io`] if the file cannot be written.
    pub fn save(
        tensors: &[Self],
        metadata: HashMap<String, String>,
        path: impl AsRef<Path>,
    ) -> Result<()> {
        let path = path.as_ref();
        let file = with_views(tensors, |views| safetensors::serialize(views, Some(metadata)))
            .map_err(std::io::Error::other);
        file.and_then(|file| atomic::write(path, &file)).map_err(Error::io("write", path))
    }

    /// Reads a tensor of an opened file; the error is the dtype that it has instead of float32.
    pub(crate) fn read(name: &str, view: &TensorView<'_>) -> Result<Self, Dtype> {
        match view.dtype() {
            Dtype::F32 => Ok(Self {
                name: name.to_owned(),
                shape: view.shape().to_vec(),
                values: floats_of(view.data()),
            }),
            other => Err(other),
        }
    }
}

/// Calls `write` with the tensors as safetensors takes them, by name.
pub(super) fn with_views<'t, T>(
    tensors: impl IntoIterator<Item = &'t FloatTensor>,
    write: impl FnOnce(BTreeMap<&str, TensorView<'_>>) -> Result<T, safetensors::SafeTensorError>,
) -> Result<T, safetensors::SafeTensorError> {
    let tensors = tensors.into_iter().map(|tensor| (tensor, float_bytes(&tensor.values)));
    let tensors: Vec<(&FloatTensor, Vec<u8>)> = tensors.collect();
    let views = tensors.iter().map(|(tensor, bytes)| {
        let view = TensorView::new(Dtype::F32, tensor.shape.clone(), bytes)?;
        Ok::<_, safetensors::SafeTensorError>((tensor.name.as_str(), view))
    });
    write(views.collect::<Result<_, _>>()?)
}
