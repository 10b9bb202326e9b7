//! Documents from text files and JSONL files.
//!
//! An object of JSON is a document with a text, or a conversation as chat data sets have it: `messages`
//! with `role` and `content`, or `conversations` with `from` and `value`. A line of JSONL whose text is not valid Unicode (a lone surrogate, invalid UTF-8) is skipped, and
//! a warning counts and names such lines. A byte order mark is dropped.

mod json;
mod pieces;
#[cfg(test)]
mod tests;

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use mlx_llamba::Message;
use mlx_llamba::files::{open_file, read};
use sha2::{Digest, Sha256};

use crate::train::io;
use crate::{Error, Result};
pub(crate) use json::{is_no_text, warn_of};
use json::{lines, list};
use pieces::pieces;

/// The byte order mark that some editors write before a text.
pub(crate) const BOM: &str = "\u{feff}";

/// Files of documents: a file of JSON has one per line, or per item of a list, any other file is one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sources {
    path: PathBuf,
    /// Files with their lengths, in the order of their paths.
    files: Vec<(PathBuf, u64)>,
    field: String,
    split: bool,
}

/// A document.
#[derive(Debug, Clone, PartialEq)]
pub struct Text {
    /// Its text, which may be empty. Of a conversation, those of its messages with empty lines between
    /// them.
    pub text: String,
    /// The messages of a conversation; others have none.
    pub messages: Vec<Message>,
    /// The number of bytes of the sources up to its end.
    pub end: u64,
}

impl Sources {
    /// Finds a file, or all `.jsonl`, `.txt` and `.md` files in a directory and its subdirectories.
    /// `field` holds the text in a line of JSONL.
    ///
    /// # Errors
    /// [`mlx_llamba::Error::Io`]; [`Error::NoDocuments`] if a directory has no such file.
    pub fn new(path: &Path, field: &str) -> Result<Self> {
        let mut files = Vec::new();
        let metadata = fs::metadata(path).map_err(io("read", path))?;
        if metadata.is_dir() {
            collect(path, &mut files)?;
            files.sort();
        } else {
            files.push((path.to_owned(), metadata.len()));
        }
        if files.is_empty() {
            let reason = "the directory has no .jsonl, .txt or .md file";
            return Err(Error::NoDocuments { path: path.to_owned(), reason });
        }
        Ok(Self { path: path.to_owned(), files, field: field.to_owned(), split: false })
    }

    /// Cuts a text that is the only file into documents, so that some of it can be held out.
    #[must_use]
    pub fn split(mut self) -> Self {
        self.split = matches!(&self.files[..], [(path, _)] if !is_json(path));
        self
    }

    /// True if the only file is a text to be cut into documents.
    pub(crate) fn is_split(&self) -> bool {
        self.split
    }

    /// The file or directory that was given.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The number of bytes of all files.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|(_, bytes)| bytes).sum()
    }

    /// The field that holds the text of a line of JSONL.
    pub(crate) fn field(&self) -> &str {
        &self.field
    }

    /// SHA-256 of each file.
    pub(crate) fn hashes(&self) -> Result<Vec<String>> {
        let hash = |(path, _): &(PathBuf, u64)| {
            let mut hasher = Sha256::new();
            let mut file = BufReader::with_capacity(1 << 20, open_file(path)?);
            loop {
                let piece = file.fill_buf()?;
                if piece.is_empty() {
                    return Ok(format!("{:x}", hasher.finalize()));
                }
                hasher.update(piece);
                let length = piece.len();
                file.consume(length);
            }
        };
        self.files.iter().map(|file| hash(file).map_err(io("read", &file.0))).collect()
    }

    /// All documents, in order.
    pub fn texts(&self) -> impl Iterator<Item = Result<Text>> {
        let mut before = 0;
        self.files.iter().flat_map(move |(path, bytes)| {
            let start = before;
            before += bytes;
            let one = |error| Box::new(std::iter::once(Err(error)));
            let texts: Box<dyn Iterator<Item = Result<Text>>> = if is_json(path) {
                match list(path, &self.field, before) {
                    Ok(Some(texts)) => Box::new(texts.into_iter()),
                    Ok(None) => match open_file(path).map_err(io("read", path)) {
                        Ok(file) => Box::new(lines(path, file, &self.field, start)),
                        Err(error) => one(error),
                    },
                    Err(error) => one(error),
                }
            } else {
                match whole(path, before) {
                    Ok(text) if self.split => Box::new(pieces(text).into_iter().map(Ok)),
                    text => Box::new(std::iter::once(text)),
                }
            };
            texts
        })
    }
}

/// True for a file whose documents are in JSON.
#[must_use]
pub fn is_json(path: &Path) -> bool {
    ["jsonl", "ndjson", "json"].iter().any(|extension| is(path, extension))
}

fn is(path: &Path, extension: &str) -> bool {
    path.extension().is_some_and(|found| found.eq_ignore_ascii_case(extension))
}

/// Adds the files of a directory, without hidden ones.
fn collect(directory: &Path, files: &mut Vec<(PathBuf, u64)>) -> Result<()> {
    for entry in fs::read_dir(directory).map_err(io("list", directory))? {
        let path = entry.map_err(io("list", directory))?.path();
        if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.')) {
            continue;
        }
        let metadata = fs::metadata(&path).map_err(io("read", &path))?;
        if metadata.is_dir() {
            collect(&path, files)?;
        } else if ["jsonl", "txt", "md"].iter().any(|extension| is(&path, extension)) {
            files.push((path, metadata.len()));
        }
    }
    Ok(())
}

fn whole(path: &Path, end: u64) -> Result<Text> {
    let bytes = read(path).map_err(io("read", path))?;
    let mut text = String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        let reason = format!("byte {at} is no UTF-8: convert the file, or leave it out");
        Error::Document { path: path.to_owned(), line: None, reason }
    })?;
    if text.starts_with(BOM) {
        text.drain(..BOM.len());
    }
    Ok(Text { text, messages: Vec::new(), end })
}
