//! The tensors of a directory's weight files, whatever the architecture.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use mlx_rs::Array;
use safetensors::Dtype;

use super::header::Stored;
use super::{Source, Tensor, array, open};
use crate::error::{Error, Result};

/// A directory's `config.json` and the tensors of its weight files (one, or shards with their
/// index), by name. Headers are read and checked; tensors are read when they are evaluated.
#[derive(Debug)]
pub struct TensorFiles {
    path: PathBuf,
    config: Option<(PathBuf, String)>,
    tensors: BTreeMap<String, (Arc<Source>, Stored)>,
}

impl TensorFiles {
    /// Opens a directory, or one weight file.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::NotACheckpoint`], [`Error::Json`], [`Error::Index`] and
    /// [`Error::Header`].
    pub fn open(path: &Path) -> Result<Self> {
        let files = open::open(path)?;
        let tensors = files.weights.into_iter().flat_map(|(source, header)| {
            header.tensors.into_iter().map(move |t| (t.name.clone(), (Arc::clone(&source), t)))
        });
        Ok(Self { path: path.to_owned(), config: files.config, tensors: tensors.collect() })
    }

    /// What it was opened from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Path and text of `config.json`, if there is one.
    pub fn config(&self) -> Option<(&Path, &str)> {
        self.config.as_ref().map(|(path, text)| (path.as_path(), text.as_str()))
    }

    /// Name, dtype and shape of every tensor, in the order of the names.
    pub fn tensors(&self) -> impl Iterator<Item = (&str, Dtype, &[usize])> {
        self.tensors.iter().map(|(name, (_, t))| (name.as_str(), t.dtype, t.shape.as_slice()))
    }

    /// The stored bytes of a tensor.
    pub fn bytes(&self, name: &str) -> Option<&[u8]> {
        let (source, t) = self.tensors.get(name)?;
        source.bytes().get(t.start..t.start + t.bytes)
    }

    /// A lazy array of a tensor.
    ///
    /// # Errors
    /// [`Error::Header`] if there is no such tensor, or MLX has no arrays like it.
    pub fn array(&self, name: &str) -> Result<Array> {
        match self.tensors.get(name) {
            Some((source, t)) => lazy(source, name, t.dtype, &t.shape, t.start..t.start + t.bytes),
            None => Err(Error::Header {
                path: self.path.clone(),
                reason: format!("it has no tensor {name}"),
            }),
        }
    }
}

/// An array of the bytes `range` of a file, read on the CPU when it is evaluated. NaN and infinity
/// in it are warned of, under its name.
///
/// # Errors
/// [`Error::Header`] if the range, the shape and the dtype do not fit each other and the file, or
/// if the dtype is none of F32, F16, BF16, U32 and U8.
pub fn lazy(
    source: &Arc<Source>,
    name: &str,
    dtype: Dtype,
    shape: &[usize],
    range: Range<usize>,
) -> Result<Array> {
    let bad = |reason: &str| Error::Header {
        path: source.path.clone(),
        reason: format!("tensor {name} of dtype {dtype} and shape {shape:?}: {reason}"),
    };
    if !matches!(dtype, Dtype::F32 | Dtype::F16 | Dtype::BF16 | Dtype::U32 | Dtype::U8) {
        return Err(bad("expected F32, F16, BF16, U32 or U8"));
    }
    if shape.iter().any(|&size| i32::try_from(size).is_err()) {
        return Err(bad("MLX counts sizes in 31 bits"));
    }
    let length = shape.iter().try_fold(dtype.bitsize() / 8, |n, &size| n.checked_mul(size));
    if length != Some(range.len()) || source.bytes().get(range.clone()).is_none() {
        return Err(bad("its bytes are not where they should be"));
    }
    let source = Arc::clone(source);
    Ok(array(Tensor { name: name.to_owned(), dtype, shape: shape.to_vec(), range, source })?)
}
