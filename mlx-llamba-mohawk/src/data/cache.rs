//! Token ids of a corpus in one mapped file.
//!
//! The file consists of [`MAGIC`]; the ids, 2 bytes each if the vocabulary fits, else 4, in whose highest
//! bit a 1 means that the token is not learned; the start of
//! each document and the end of the last, counted in ids, 8 bytes each; the bytes of each document's
//! text, 8 each; the footer, in JSON; the footer's length, 8 bytes; [`MAGIC`]. All numbers are
//! little-endian. The footer comes last because the counts are known only then.

use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use mlx_llamba::files::{AtomicFile, Map};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::{Encoded, Encoder, Sources};
use crate::train::io;
use crate::{Error, Result};

const MAGIC: &[u8; 8] = b"MLtokens";
const VERSION: u32 = 1;
/// The bit of an id of 4 bytes that marks a token that is not learned.
pub(super) const UNLEARNED: u32 = 1 << 31;

/// The inputs that determine the content of a cache. For files, these are their content and the
/// encoder; for generated text, everything that determines it.
#[derive(Debug, Clone, PartialEq)]
pub struct Key(pub Value);

impl Key {
    pub(super) fn new(sources: &Sources, encoder: &Encoder) -> Result<Self> {
        let mut key = json!({
            "encoder": encoder.name(),
            "field": sources.field(),
            "sources": sources.hashes()?,
            "vocab": encoder.vocab(),
        });
        // Absent for other texts, so that the names of their caches stay the same.
        if sources.is_split() {
            key["split"] = true.into();
        }
        Ok(Self(key))
    }

    /// Returns the path of this cache.
    #[must_use]
    pub fn path(&self, directory: &Path) -> PathBuf {
        let hash = format!("{:x}", Sha256::digest(self.0.to_string()));
        directory.join(format!("tokens-{:.16}.bin", hash))
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct Footer {
    version: u32,
    key: Value,
    /// The size of an id in bytes.
    width: usize,
    ids: u64,
    documents: u64,
    /// SHA-256 of everything between the first [`MAGIC`] and the footer.
    sha256: String,
}

/// Writes a corpus, document by document.
pub struct Writer {
    file: BufWriter<AtomicFile>,
    path: PathBuf,
    hasher: Sha256,
    key: Value,
    width: usize,
    offsets: Vec<u64>,
    text_bytes: Vec<u64>,
}

impl Writer {
    /// Begins a file at `path` for ids below `vocab`, and creates its directory if there is none. With
    /// `partial` some of the ids may not be learned.
    ///
    /// # Errors
    /// [`mlx_llamba::Error::Io`].
    pub fn create(path: &Path, key: &Key, vocab: usize, partial: bool) -> Result<Self> {
        if let Some(directory) = path.parent() {
            std::fs::create_dir_all(directory).map_err(io("create", directory))?;
        }
        let file = AtomicFile::create(path).map_err(io("write", path))?;
        let mut file = BufWriter::with_capacity(1 << 18, file);
        file.write_all(MAGIC).map_err(io("write", path))?;
        Ok(Self {
            file,
            path: path.to_owned(),
            hasher: Sha256::new(),
            key: key.0.clone(),
            width: if vocab <= 1 << 16 && !partial { 2 } else { 4 },
            offsets: vec![0],
            text_bytes: Vec::new(),
        })
    }

    /// Adds a document: its ids, and the bytes of its text.
    ///
    /// # Errors
    /// [`mlx_llamba::Error::Io`].
    pub fn push(&mut self, Encoded { ids, learned }: &Encoded, text_bytes: u64) -> Result<()> {
        let bytes: Vec<u8> = match self.width {
            2 => ids.iter().flat_map(|&id| (id as u16).to_le_bytes()).collect(),
            _ => {
                let mut marked: Vec<u32> = ids.iter().map(|id| id | UNLEARNED).collect();
                for range in learned {
                    marked[range.clone()].iter_mut().for_each(|id| *id &= !UNLEARNED);
                }
                marked.iter().flat_map(|id| id.to_le_bytes()).collect()
            }
        };
        self.write(&bytes)?;
        let end = self.offsets.last().copied().unwrap_or(0) + ids.len() as u64;
        self.offsets.push(end);
        self.text_bytes.push(text_bytes);
        Ok(())
    }

    /// Writes the rest and opens the file. Errors call the data `source`.
    ///
    /// # Errors
    /// [`Error::NoDocuments`] if there are no tokens; [`mlx_llamba::Error::Io`].
    pub fn finish(mut self, source: &Path) -> Result<Corpus> {
        let ids = self.offsets.last().copied().unwrap_or(0);
        if ids == 0 {
            let reason = "there is no text in it";
            return Err(Error::NoDocuments { path: source.to_owned(), reason });
        }
        let numbers = [self.offsets.as_slice(), &self.text_bytes].concat();
        let bytes: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
        self.write(&bytes)?;
        let footer = Footer {
            version: VERSION,
            key: self.key.clone(),
            width: self.width,
            ids,
            documents: self.text_bytes.len() as u64,
            sha256: format!("{:x}", self.hasher.clone().finalize()),
        };
        let footer = json!(footer).to_string();
        let length = (footer.len() as u64).to_le_bytes();
        let path = self.path.clone();
        for bytes in [footer.as_bytes(), &length, MAGIC] {
            self.file.write_all(bytes).map_err(io("write", &path))?;
        }
        let file = self.file.into_inner().map_err(|e| io("write", &path)(e.into_error()))?;
        file.publish().map_err(io("write", &path))?;
        Corpus::open(&path)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.hasher.update(bytes);
        self.file.write_all(bytes).map_err(io("write", &self.path))
    }
}

/// Documents as token ids, in a mapped file.
#[derive(Debug)]
pub struct Corpus {
    map: Map,
    footer: Footer,
}

impl Corpus {
    /// Opens a file that a [`Writer`] wrote, and compares its checksum.
    ///
    /// # Errors
    /// [`mlx_llamba::Error::Io`]; [`Error::Cache`] if the file is damaged.
    pub fn open(path: &Path) -> Result<Self> {
        let bad = |reason: &str| Error::Cache { path: path.to_owned(), reason: reason.to_owned() };
        let map = Map::open(path)?;
        let rest = map.strip_prefix(MAGIC).and_then(|rest| rest.strip_suffix(MAGIC));
        let rest = rest.ok_or_else(|| bad("it does not begin and end as it should"))?;
        let (rest, length) = rest.split_last_chunk().ok_or_else(|| bad("it is too short"))?;
        let length = usize::try_from(u64::from_le_bytes(*length)).unwrap_or(usize::MAX);
        let at = rest.len().checked_sub(length).ok_or_else(|| bad("it is too short"))?;
        let (data, footer) = rest.split_at(at);
        let footer: Footer =
            serde_json::from_slice(footer).map_err(|e| bad(&format!("its footer: {e}")))?;
        if footer.version != VERSION {
            return Err(bad(&format!("version {}, expected {VERSION}", footer.version)));
        }
        let (ids, documents) = (u128::from(footer.ids), u128::from(footer.documents));
        let expected = footer.width as u128 * ids + 8 * (2 * documents + 1);
        if expected != data.len() as u128 || ![2, 4].contains(&footer.width) {
            return Err(bad(&format!("{} bytes, expected {expected}", data.len())));
        }
        if format!("{:x}", Sha256::digest(data)) != footer.sha256 {
            return Err(bad("its checksum is wrong"));
        }
        let corpus = Self { map, footer };
        // The checksum shows that the numbers are those that were written; this, that they are
        // consistent.
        let last = corpus.documents();
        if (0..last).any(|i| corpus.number(i) > corpus.number(i + 1))
            || (corpus.number(0), corpus.number(last)) != (0, corpus.footer.ids)
        {
            return Err(bad("its documents are out of order"));
        }
        Ok(corpus)
    }

    /// True if the corpus was made from these inputs.
    #[must_use]
    pub fn is_of(&self, key: &Key) -> bool {
        self.footer.key == key.0
    }

    /// Returns a hash of the content: corpora with the same hash have the same documents.
    #[must_use]
    pub fn hash(&self) -> &str {
        &self.footer.sha256
    }

    /// The number of documents, empty ones included.
    #[must_use]
    pub fn documents(&self) -> usize {
        self.footer.documents as usize
    }

    /// The number of tokens of all documents.
    #[must_use]
    pub fn tokens(&self) -> u64 {
        self.footer.ids
    }

    /// The position of a document's first token. The document after the last one begins at the end.
    ///
    /// # Panics
    /// If there is no such document.
    #[must_use]
    pub fn start(&self, document: usize) -> u64 {
        assert!(document <= self.documents(), "a document of the corpus");
        self.number(document)
    }

    /// The number of bytes of a document's text.
    ///
    /// # Panics
    /// If there is no such document.
    #[must_use]
    pub fn text_bytes(&self, document: usize) -> u64 {
        assert!(document < self.documents(), "a document of the corpus");
        self.number(self.documents() + 1 + document)
    }

    /// The ids of a document.
    ///
    /// # Panics
    /// If there is no such document.
    #[must_use]
    pub fn document(&self, document: usize) -> Vec<u32> {
        let (start, end) = (self.start(document), self.start(document + 1));
        let mut ids = Vec::with_capacity((end - start) as usize);
        self.read(start, (end - start) as usize, &mut ids);
        ids.iter().map(|id| id & !UNLEARNED).collect()
    }

    /// Adds `count` ids from `start` on to `ids`, with the marks of tokens that are not learned.
    pub(super) fn read(&self, start: u64, count: usize, ids: &mut Vec<u32>) {
        let width = self.footer.width;
        let bytes = &self.map[MAGIC.len() + width * start as usize..][..width * count];
        match width {
            2 => {
                let (words, _) = bytes.as_chunks::<2>();
                ids.extend(words.iter().map(|&word| u32::from(u16::from_le_bytes(word))));
            }
            _ => {
                let (words, _) = bytes.as_chunks::<4>();
                ids.extend(words.iter().map(|&word| u32::from_le_bytes(word)));
            }
        }
    }

    /// One of the numbers that follow the ids.
    fn number(&self, i: usize) -> u64 {
        let at = MAGIC.len() + self.footer.width * self.footer.ids as usize + 8 * i;
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&self.map[at..at + 8]);
        u64::from_le_bytes(bytes)
    }
}
