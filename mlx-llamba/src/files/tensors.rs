//! The tensors of a directory's weight files, whatever the architecture.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use mlx_rs::Array;

use super::{StoredTensor, open};
use crate::error::{Error, Result};

/// A directory's `config.json` and the tensors of its weight files (one, or shards with their
/// index), by name. Headers are read and checked; tensors are read when they are evaluated.
#[derive(Debug)]
pub struct TensorFiles {
    path: PathBuf,
    config: Option<(PathBuf, String)>,
    tensors: BTreeMap<String, StoredTensor>,
}

impl TensorFiles {
    /// Opens a directory, or one weight file.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::NotACheckpoint`], [`Error::Json`], [`Error::Index`] and
    /// [`Error::Header`].
    pub fn open(path: &Path) -> Result<Self> {
        let files = open::open(path)?;
        let tensors = files.weights.into_iter().flat_map(|(_, header)| header.tensors);
        let tensors = tensors.map(|tensor| (tensor.name().to_owned(), tensor));
        Ok(Self { path: path.to_owned(), config: files.config, tensors: tensors.collect() })
    }

    /// The path that was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Path and text of `config.json`, if there is one.
    pub fn config(&self) -> Option<(&Path, &str)> {
        self.config.as_ref().map(|(path, text)| (path.as_path(), text.as_str()))
    }

    /// Every tensor, in the order of the names.
    pub fn tensors(&self) -> impl Iterator<Item = &StoredTensor> {
        self.tensors.values()
    }

    /// The tensor of this name.
    pub fn tensor(&self, name: &str) -> Option<&StoredTensor> {
        self.tensors.get(name)
    }

    /// A lazy array of a tensor.
    ///
    /// # Errors
    /// [`Error::Header`] if there is no such tensor; those of [`StoredTensor::array`].
    pub fn array(&self, name: &str) -> Result<Array> {
        match self.tensors.get(name) {
            Some(tensor) => tensor.array(),
            None => Err(Error::Header {
                path: self.path.clone(),
                reason: format!("there is no tensor {name}"),
            }),
        }
    }
}
