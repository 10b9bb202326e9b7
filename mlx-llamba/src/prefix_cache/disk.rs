//! The part of a prefix cache on disk: a directory with a file per state.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use lru::LruCache;

use super::Key;
use crate::context;
use crate::error::{Error, Result};
use crate::files::sealed::{Kind, Metadata};
use crate::files::{atomic, hash};
use crate::model::Model;
use crate::state::State;

const KIND: Kind = Kind {
    format: "mlx-llamba-prefix",
    version: "1",
    unsealed_version: None,
    name: "a state of mlx-llamba's prefix cache",
};
const EXTENSION: &str = "prefix";

#[derive(Debug)]
pub(super) struct Disk {
    directory: PathBuf,
    model: String,
    budget: u64,
    /// The size of all files.
    bytes: u64,
    /// In the order of use.
    files: LruCache<Key, Stored>,
}

#[derive(Debug, Clone, Copy)]
struct Stored {
    length: usize,
    bytes: u64,
}

impl Disk {
    /// Lists the files of `model`. Their contents are read when they are needed.
    pub(super) fn open(directory: PathBuf, model: &str, budget: u64) -> Result<Self> {
        let io = |action| {
            let path = directory.clone();
            move |source| Error::Io { action, path, source }
        };
        atomic::private_directory(&directory).map_err(io("create"))?;
        atomic::sweep(&directory).map_err(io("list"))?;
        let mut found = Vec::new();
        for entry in std::fs::read_dir(&directory).map_err(io("list"))? {
            let entry = entry.map_err(io("list"))?;
            let Some((length, key)) = parse(&entry.file_name().to_string_lossy(), model) else {
                continue;
            };
            let Ok(metadata) = entry.metadata() else { continue };
            let time = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
            found.push((time, key, length, metadata.len()));
        }
        found.sort();
        let mut disk = Self {
            directory,
            model: model.to_owned(),
            budget,
            bytes: 0,
            files: LruCache::unbounded(),
        };
        for (_, key, length, bytes) in found {
            disk.insert(key, Stored { length, bytes });
        }
        Ok(disk)
    }

    /// The number of files and their size in bytes.
    pub(super) fn size(&self) -> (usize, u64) {
        (self.files.len(), self.bytes)
    }

    /// The lengths, up to `most`, of the prefixes on disk.
    pub(super) fn lengths(&self, most: usize) -> impl Iterator<Item = usize> {
        self.files.iter().map(|(_, file)| file.length).filter(move |length| *length <= most)
    }

    pub(super) fn store(&mut self, key: &Key, length: usize, state: &State) -> Result<()> {
        let path = self.path(key, length);
        let failed = |e: String| Error::State { path: path.clone(), reason: e };
        let metadata = Metadata::from([
            ("model".to_owned(), self.model.clone()),
            ("tokens".to_owned(), hash::hex(key)),
        ]);
        let bytes = KIND.seal(metadata, &state.tensors(0)?).map_err(failed)?;
        let io = |source| Error::Io { action: "write", path: path.clone(), source };
        if bytes.len() as u64 > self.budget {
            return Ok(());
        }
        atomic::write_private(&path, &bytes).map_err(io)?;
        self.insert(*key, Stored { length, bytes: bytes.len() as u64 });
        Ok(())
    }

    /// Loads a state; `None` if there is no file. A damaged file is removed.
    pub(super) fn load(
        &mut self,
        key: &Key,
        length: usize,
        model: &Model,
    ) -> Result<Option<State>> {
        if self.files.get(key).is_none() {
            return Ok(None);
        }
        let path = self.path(key, length);
        match read(&path, key, model) {
            Ok(state) => Ok(Some(state)),
            Err(error @ Error::Mlx(_)) => Err(error),
            Err(error) => {
                log::warn!("{error}; it is removed");
                self.remove(key);
                Ok(None)
            }
        }
    }

    pub(super) fn clear(&mut self) {
        let keys: Vec<Key> = self.files.iter().map(|(key, _)| *key).collect();
        keys.iter().for_each(|key| self.remove(key));
    }

    /// Adds a file, and removes the least recently used ones that exceed the budget.
    fn insert(&mut self, key: Key, file: Stored) {
        self.bytes += file.bytes;
        let before = self.files.put(key, file);
        self.bytes -= before.map_or(0, |before| before.bytes);
        while self.bytes > self.budget
            && let Some((oldest, _)) = self.files.peek_lru()
        {
            let oldest = *oldest;
            self.remove(&oldest);
        }
    }

    /// Removes a file. Another process may have removed it already.
    fn remove(&mut self, key: &Key) {
        if let Some(file) = self.files.pop(key) {
            self.bytes -= file.bytes;
            let _ = std::fs::remove_file(self.path(key, file.length));
        }
    }

    fn path(&self, key: &Key, length: usize) -> PathBuf {
        let (model, key) = (short(&self.model), hash::hex(key));
        self.directory.join(format!("{model}-{length}-{key}.{EXTENSION}"))
    }
}

/// The part of a fingerprint that is in file names; the whole is in the metadata.
fn short(model: &str) -> &str {
    model.get(..16).unwrap_or(model)
}

/// The length and the key in a file's name.
fn parse(name: &str, model: &str) -> Option<(usize, Key)> {
    let rest = name.strip_prefix(short(model))?.strip_prefix('-')?;
    let (length, key) = rest.strip_suffix(EXTENSION)?.strip_suffix('.')?.split_once('-')?;
    let digits = key.as_bytes().as_chunks::<2>();
    let byte = |pair: &[u8; 2]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    let bytes: Option<Vec<u8>> = digits.0.iter().map(byte).collect();
    Some((length.parse().ok()?, bytes?.try_into().ok().filter(|_| digits.1.is_empty())?))
}

fn read(path: &Path, key: &Key, model: &Model) -> Result<State> {
    let bad = |reason: String| Error::State { path: path.to_owned(), reason };
    let io = |source| Error::Io { action: "read", path: path.to_owned(), source };
    let bytes = std::fs::read(path).map_err(io)?;
    let (metadata, file) = KIND.open(&bytes).map_err(bad)?;
    let of = |name: &str| metadata.get(name).map(String::as_str);
    if of("model") != Some(model.fingerprint()) || of("tokens") != Some(&hash::hex(key)) {
        return Err(bad("it belongs to another model or text".to_owned()));
    }
    context::state(model, |name, shape| context::array(path, &file, name, shape))
}
