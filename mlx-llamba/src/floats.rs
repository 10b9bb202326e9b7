//! Files of float32 tensors: saved states, and numbers for comparing implementations.

use std::collections::HashMap;
use std::path::Path;

use safetensors::tensor::TensorView;

use crate::atomic;
use crate::error::{Error, Result};

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
    /// Writes tensors and metadata to one safetensors file, which appears whole or not at all.
    ///
    /// # Errors
    /// [`Error::Io`] if the file cannot be written.
    pub fn save(tensors: &[Self], metadata: HashMap<String, String>, path: &Path) -> Result<()> {
        let failed = |source| Error::Io { action: "write", path: path.to_owned(), source };
        let bytes: Vec<Vec<u8>> = tensors
            .iter()
            .map(|tensor| tensor.values.iter().flat_map(|v| v.to_le_bytes()).collect())
            .collect();
        let views: Result<Vec<_>, _> = tensors
            .iter()
            .zip(&bytes)
            .map(|(tensor, bytes)| {
                let shape = tensor.shape.clone();
                let view = TensorView::new(safetensors::Dtype::F32, shape, bytes)?;
                Ok((&tensor.name, view))
            })
            .collect();
        let file = views
            .and_then(|views| safetensors::serialize(views, Some(metadata)))
            .map_err(|e: safetensors::SafeTensorError| failed(std::io::Error::other(e)))?;
        atomic::write(path, &file).map_err(failed)
    }
}
