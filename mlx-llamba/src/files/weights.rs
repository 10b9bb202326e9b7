//! Writes weight files: headers first, then the tensors in any order.

use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use safetensors::tensor::{Metadata, TensorInfo};
use serde_json::json;

use super::TensorHeader;
use crate::error::{Error, Result};

/// The weight files of a model, open for writing.
pub struct WeightFiles {
    files: Vec<(PathBuf, File)>,
    places: HashMap<String, Place>,
}

struct Place {
    file: usize,
    start: u64,
    bytes: usize,
    written: usize,
}

impl WeightFiles {
    /// Creates `model.safetensors`, or shards of at most `shard_bytes` with their index, in
    /// `directory`. `format` is the framework to name in the headers, such as "pt".
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn create(
        directory: &Path,
        tensors: Vec<TensorHeader>,
        format: &str,
        shard_bytes: usize,
    ) -> Result<Self> {
        let shards = split(tensors, shard_bytes);
        let mut writer = Self { files: Vec::new(), places: HashMap::new() };
        let (mut map, mut total) = (serde_json::Map::new(), 0);
        for (i, shard) in shards.iter().enumerate() {
            let name = match shards.len() {
                1 => "model.safetensors".to_owned(),
                count => format!("model-{:05}-of-{count:05}.safetensors", i + 1),
            };
            for tensor in shard {
                total += length(tensor);
                map.insert(tensor.name.clone(), json!(name));
            }
            writer.begin(&directory.join(name), shard, format)?;
        }
        if shards.len() > 1 {
            let index = json!({"metadata": {"total_size": total}, "weight_map": map});
            let path = directory.join("model.safetensors.index.json");
            std::fs::write(&path, format!("{index:#}\n")).map_err(|source| Error::Io {
                action: "write",
                path,
                source,
            })?;
        }
        Ok(writer)
    }

    /// Creates one file and writes its header.
    fn begin(&mut self, path: &Path, tensors: &[TensorHeader], format: &str) -> Result<()> {
        let io = |source| Error::Io { action: "write", path: path.to_owned(), source };
        let mut end = 0;
        let infos = tensors.iter().map(|tensor| {
            let start = end;
            end += length(tensor);
            let info = TensorInfo {
                dtype: tensor.dtype,
                shape: tensor.shape.clone(),
                data_offsets: (start, end),
            };
            (tensor.name.clone(), info)
        });
        let metadata = HashMap::from([("format".to_owned(), format.to_owned())]);
        let header = Metadata::new(Some(metadata), infos.collect())
            .map_err(|error| Error::Header { path: path.to_owned(), reason: error.to_string() })?;
        let mut json = serde_json::to_string(&header)
            .map_err(|source| Error::Json { path: path.to_owned(), source })?;
        // Tensors begin at a multiple of 8, so that they are aligned in a mapping.
        json.push_str(&" ".repeat(json.len().next_multiple_of(8) - json.len()));
        let file = File::create(path).map_err(io)?;
        file.write_all_at(&(json.len() as u64).to_le_bytes(), 0).map_err(io)?;
        file.write_all_at(json.as_bytes(), 8).map_err(io)?;
        let data = 8 + json.len() as u64;
        for tensor in tensors {
            let info = header.info(&tensor.name);
            let start = data + info.map_or(0, |info| info.data_offsets.0) as u64;
            let place = Place { file: self.files.len(), start, bytes: length(tensor), written: 0 };
            self.places.insert(tensor.name.clone(), place);
        }
        self.files.push((path.to_owned(), file));
        Ok(())
    }

    /// Writes the next bytes of a tensor.
    ///
    /// # Errors
    /// [`Error::Io`], also for more bytes than the header announces.
    pub fn append(&mut self, name: &str, bytes: &[u8]) -> Result<()> {
        let Some(place) = self.places.get_mut(name) else {
            return Err(incomplete(name));
        };
        if place.written + bytes.len() > place.bytes {
            return Err(incomplete(name));
        }
        let (path, file) = &self.files[place.file];
        file.write_all_at(bytes, place.start + place.written as u64)
            .map_err(|source| Error::Io { action: "write", path: path.clone(), source })?;
        place.written += bytes.len();
        Ok(())
    }

    /// Checks that every tensor is complete.
    ///
    /// # Errors
    /// [`Error::Io`] names one that is not.
    pub fn finish(self) -> Result<()> {
        match self.places.iter().find(|(_, place)| place.written != place.bytes) {
            Some((name, _)) => Err(incomplete(name)),
            None => Ok(()),
        }
    }
}

/// The error for more or fewer bytes than a header announces: a mistake in this crate, caught before
/// the output gets its name.
fn incomplete(name: &str) -> Error {
    let source = std::io::Error::other("its length is not the announced one");
    Error::Io { action: "write tensor", path: name.into(), source }
}

/// Splits tensors into files in their order. Within a file, wide elements come first so that all are
/// aligned.
fn split(tensors: Vec<TensorHeader>, shard_bytes: usize) -> Vec<Vec<TensorHeader>> {
    let (mut shards, mut filled) = (vec![Vec::new()], 0);
    for tensor in tensors {
        let bytes = length(&tensor);
        if filled > 0 && filled + bytes > shard_bytes {
            shards.push(Vec::new());
            filled = 0;
        }
        filled += bytes;
        if let Some(shard) = shards.last_mut() {
            shard.push(tensor);
        }
    }
    for shard in &mut shards {
        shard.sort_by_key(|tensor: &TensorHeader| std::cmp::Reverse(tensor.dtype.bitsize()));
    }
    shards
}

fn length(tensor: &TensorHeader) -> usize {
    tensor.bytes().unwrap_or(0)
}
