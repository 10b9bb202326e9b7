//! Tensors in weight files.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use mlx_rs::Array;
use safetensors::Dtype;

use super::{Source, lazy};
use crate::error::{Error, Result};

/// Name, dtype and shape of a tensor in the header of a safetensors file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorHeader {
    /// Name in the file.
    pub name: String,
    /// Element type.
    pub dtype: Dtype,
    /// Shape.
    pub shape: Vec<usize>,
}

impl TensorHeader {
    /// Length in bytes; `None` if it overflows.
    pub fn bytes(&self) -> Option<usize> {
        let bytes = |bits: usize, &size: &usize| bits.checked_mul(size);
        Some(self.shape.iter().try_fold(self.dtype.bitsize(), bytes)? / 8)
    }
}

/// A tensor in a weight file. A clone shares the file.
#[derive(Debug, Clone)]
pub struct StoredTensor {
    header: TensorHeader,
    source: Arc<Source>,
    range: Range<usize>,
}

impl StoredTensor {
    /// The tensor in the bytes `range` of a file.
    ///
    /// # Errors
    /// [`Error::Header`] if the length of the range is not that of the tensor, or if it leaves the
    /// file.
    pub fn new(source: &Arc<Source>, header: TensorHeader, range: Range<usize>) -> Result<Self> {
        let inside = source.bytes().get(range.clone()).is_some();
        if !inside || header.bytes() != Some(range.len()) {
            let reason = format!(
                "tensor {} of dtype {} and shape {:?} does not fit bytes {range:?} of the file's {}",
                header.name,
                header.dtype,
                header.shape,
                source.bytes().len()
            );
            return Err(Error::Header { path: source.path().to_owned(), reason });
        }
        Ok(Self { header, source: Arc::clone(source), range })
    }

    /// Name in the file.
    pub fn name(&self) -> &str {
        &self.header.name
    }

    /// Element type, as safetensors names it.
    pub fn dtype(&self) -> Dtype {
        self.header.dtype
    }

    /// Element type, as MLX names it: "float32"; empty for a dtype that no array is made of.
    pub fn dtype_name(&self) -> String {
        mlx_dtype(self.dtype())
            .map_or_else(String::new, |dtype| format!("{dtype:?}").to_lowercase())
    }

    /// Shape.
    pub fn shape(&self) -> &[usize] {
        &self.header.shape
    }

    /// The stored bytes, row-major.
    pub fn bytes(&self) -> &[u8] {
        &self.source.bytes()[self.range.clone()]
    }

    /// Path of the file.
    pub fn path(&self) -> &Path {
        self.source.path()
    }

    /// A lazy array of the tensor, read on the CPU when it is evaluated. If it holds NaN or
    /// infinity, a warning names it then.
    ///
    /// # Errors
    /// [`Error::Header`] if the dtype is not F32, F16, BF16, U32 or U8, or if a size does not fit
    /// 31 bits; [`Error::Mlx`].
    pub fn array(&self) -> Result<Array> {
        let refused = |reason: &str| {
            let reason = format!("tensor {}: {reason}", self.header.name);
            Err(Error::Header { path: self.path().to_owned(), reason })
        };
        if mlx_dtype(self.dtype()).is_none() {
            return refused("the dtype must be F32, F16, BF16, U32 or U8");
        }
        if self.shape().iter().any(|&size| i32::try_from(size).is_err()) {
            return refused("sizes must fit 31 bits");
        }
        Ok(lazy::array(self.clone())?)
    }

    /// The same bytes under another shape with as many elements.
    pub(crate) fn reshaped(mut self, shape: &[usize]) -> Self {
        debug_assert_eq!(self.shape().iter().product::<usize>(), shape.iter().product::<usize>());
        self.header.shape = shape.to_vec();
        self
    }

    /// Some of the rows, which lie along the first axis.
    ///
    /// # Panics
    /// If there are no such rows.
    pub(crate) fn rows(&self, rows: Range<usize>) -> Self {
        let mut part = self.clone();
        let row = self.range.len() / self.header.shape[0];
        part.range = self.range.start + rows.start * row..self.range.start + rows.end * row;
        assert!(rows.end <= self.header.shape[0], "rows of the tensor");
        part.header.shape[0] = rows.len();
        part
    }

    /// Drops the tensor's pages from memory; reading them again brings them back.
    pub(crate) fn release(&self, part: Range<usize>) {
        self.source.release(self.range.start + part.start..self.range.start + part.end);
    }
}

/// MLX's name of a dtype that tensors of models have.
pub(crate) fn mlx_dtype(dtype: Dtype) -> Option<mlx_rs::Dtype> {
    match dtype {
        Dtype::F32 => Some(mlx_rs::Dtype::Float32),
        Dtype::F16 => Some(mlx_rs::Dtype::Float16),
        Dtype::BF16 => Some(mlx_rs::Dtype::Bfloat16),
        Dtype::U32 => Some(mlx_rs::Dtype::Uint32),
        Dtype::U8 => Some(mlx_rs::Dtype::Uint8),
        _ => None,
    }
}
