//! Documents out of text files and JSONL files.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::train::io;
use crate::{Error, Result};

/// Files of documents: a `.jsonl` file has one in each line, any other file is one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sources {
    path: PathBuf,
    /// Files with their lengths, in the order of their paths.
    files: Vec<(PathBuf, u64)>,
    field: String,
}

/// A document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Text {
    /// Its text; empty ones count.
    pub text: String,
    /// Bytes of the sources read with it and before it.
    pub end: u64,
}

impl Sources {
    /// A file, or all `.jsonl`, `.txt` and `.md` files in a directory and those below it. `field`
    /// is the one that holds the text of a line of JSONL.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::NoDocuments`] if a directory has no such file.
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
        Ok(Self { path: path.to_owned(), files, field: field.to_owned() })
    }

    /// The file or directory they were found at.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes of all files.
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
            let mut file = BufReader::with_capacity(1 << 20, File::open(path)?);
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
            let texts: Box<dyn Iterator<Item = Result<Text>>> = if is(path, "jsonl") {
                match File::open(path).map_err(io("read", path)) {
                    Ok(file) => Box::new(lines(path, file, &self.field, start)),
                    Err(error) => Box::new(std::iter::once(Err(error))),
                }
            } else {
                Box::new(std::iter::once(whole(path, before)))
            };
            texts
        })
    }
}

fn is(path: &Path, extension: &str) -> bool {
    path.extension().is_some_and(|found| found.eq_ignore_ascii_case(extension))
}

/// Adds the files of a directory; hidden ones are none of ours.
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
    let bytes = fs::read(path).map_err(io("read", path))?;
    let text = String::from_utf8(bytes).map_err(|error| {
        let reason = format!("byte {} is no UTF-8", error.utf8_error().valid_up_to());
        Error::Document { path: path.to_owned(), line: None, reason }
    })?;
    Ok(Text { text, end })
}

fn lines(path: &Path, file: File, field: &str, start: u64) -> impl Iterator<Item = Result<Text>> {
    let mut reader = BufReader::with_capacity(1 << 18, file);
    let (mut number, mut end) = (0, start);
    std::iter::from_fn(move || {
        loop {
            let mut line = Vec::new();
            match reader.read_until(b'\n', &mut line) {
                Err(error) => return Some(Err(io("read", path)(error))),
                Ok(0) => return None,
                Ok(read) => end += read as u64,
            }
            number += 1;
            if line.trim_ascii().is_empty() {
                continue;
            }
            let bad =
                |reason| Error::Document { path: path.to_owned(), line: Some(number), reason };
            let text = match serde_json::from_slice::<Value>(&line) {
                Err(error) => Err(bad(format!("not JSON: {error}"))),
                Ok(value) => match &value[field] {
                    Value::String(text) => Ok(Text { text: text.clone(), end }),
                    Value::Null => Err(bad(format!("it has no field {field:?}"))),
                    _ => Err(bad(format!("its field {field:?} is no text"))),
                },
            };
            return Some(text);
        }
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn texts(path: &Path, field: &str) -> Result<Vec<String>> {
        Sources::new(path, field)?.texts().map(|text| Ok(text?.text)).collect()
    }

    #[test]
    fn files_and_directories() {
        let directory = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = directory.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, text).unwrap();
            path
        };
        let lines =
            write("b/lines.JSONL", "{\"t\": \"one\"}\n\n{\"x\": 1, \"t\": \"\"}\n{\"t\":\"3\"}");
        write("a.txt", "all\nof it\n");
        write("c.md", "# c");
        write(".hidden.txt", "no");
        write("d.bin", "no");
        let found = texts(directory.path(), "t").unwrap();
        assert_eq!(found, ["all\nof it\n", "one", "", "3", "# c"]);
        assert_eq!(texts(&lines, "t").unwrap(), ["one", "", "3"]);
        // Named, any file is a text.
        assert_eq!(texts(&directory.path().join("d.bin"), "t").unwrap(), ["no"]);
        let sources = Sources::new(directory.path(), "t").unwrap();
        let ends: Vec<u64> = sources.texts().map(|text| text.unwrap().end).collect();
        assert_eq!(ends, [10, 23, 42, 51, 54]);
        assert_eq!(sources.bytes(), 54);
    }

    #[test]
    fn bad_files_are_named() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("x.jsonl");
        for (text, parts) in [
            ("{\"text\": \"a\"}\n{\"text\": 5}", &["line 2", "is no text"][..]),
            ("{\"text\": \"a\"}\n\n{\"prompt\": \"b\"}", &["line 3", "no field \"text\""]),
            ("{\"text\": \"a\"", &["line 1", "not JSON"]),
            ("[1]", &["line 1", "no field"]),
        ] {
            fs::write(&path, text).unwrap();
            let error = texts(&path, "text").unwrap_err().to_string();
            for part in parts.iter().chain(&["x.jsonl"]) {
                assert!(error.contains(part), "{error}");
            }
        }
        let path = directory.path().join("latin.txt");
        fs::write(&path, b"caf\xe9").unwrap();
        let error = texts(&path, "text").unwrap_err().to_string();
        assert!(error.contains("byte 3 is no UTF-8"), "{error}");
        let empty = directory.path().join("empty");
        fs::create_dir(&empty).unwrap();
        assert!(texts(&empty, "text").unwrap_err().to_string().contains("no .jsonl"));
        let error = texts(&directory.path().join("none"), "text").unwrap_err().to_string();
        assert!(error.contains("cannot read"), "{error}");
    }
}
