//! Documents from text files and JSONL files.
//!
//! A line of JSONL whose text is not valid Unicode (a lone surrogate, invalid UTF-8) is skipped, and
//! a warning counts and names such lines. A byte order mark is dropped.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use mlx_llamba::files::{json, open_file, read};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::train::io;
use crate::{Error, Result};

/// The byte order mark that some editors write before a text.
const BOM: &str = "\u{feff}";
/// The number of skipped lines that a warning names.
const NAMED: usize = 5;
/// The smallest and largest number of bytes of a document that is cut from a single text, where
/// possible.
const PIECE: (usize, usize) = (1 << 10, 1 << 14);
/// The number of documents that a single text is cut into, if it is long enough.
const PIECES: usize = 100;

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
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Text {
    /// Its text, which may be empty.
    pub text: String,
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

/// Documents of a `.json` file that is a list, or one object over several lines; `None` for one that
/// has an object per line.
fn list(path: &Path, field: &str, end: u64) -> Result<Option<Vec<Result<Text>>>> {
    if !is(path, "json") {
        return Ok(None);
    }
    let bytes = read(path).map_err(io("read", path))?;
    let bad = |line, reason| Error::Document { path: path.to_owned(), line, reason };
    let items = match json::from_slice::<Value>(&bytes) {
        Ok(Value::Array(items)) => items,
        Ok(object) => vec![object],
        // The list, if it is none of lines, would be skipped as a whole.
        Err(_) if bytes.trim_ascii_start().starts_with(b"[") && is_no_text(&bytes) => {
            let reason = "it has a text that is no Unicode: give one object per line (JSONL), of \
                          which such lines are skipped";
            return Err(bad(None, reason.to_owned()));
        }
        Err(error) if bytes.trim_ascii_start().starts_with(b"[") => {
            return Err(bad(None, format!("not JSON: {error}")));
        }
        Err(_) => return Ok(None),
    };
    let document = |(i, item): (usize, Value)| match item {
        Value::String(text) => Ok(Text { text, end }),
        item => text_of(&item, field)
            .map(|text| Text { text, end })
            .map_err(|reason| bad(None, format!("item {}: {reason}", i + 1))),
    };
    Ok(Some(items.into_iter().enumerate().map(document).collect()))
}

/// Returns the text in a field of an object, or the reason why there is none.
fn text_of(value: &Value, field: &str) -> std::result::Result<String, String> {
    match &value[field] {
        Value::String(text) => Ok(text.clone()),
        Value::Null => Err(format!(
            "it has no field {field:?}: name the text's field by --field NAME or --set \
             data.field=NAME"
        )),
        _ => Err(format!("its field {field:?} is no text")),
    }
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
    Ok(Text { text, end })
}

/// Cuts a text at empty lines, and long paragraphs at line ends.
fn pieces(text: Text) -> Vec<Text> {
    let (least, most) = PIECE;
    let size = (text.text.len() / PIECES).clamp(least, most);
    let start = text.end - text.text.len() as u64;
    let (mut pieces, mut from, mut at) = (Vec::new(), 0, 0);
    for line in text.text.split_inclusive('\n') {
        at += line.len();
        let paragraph = line.trim().is_empty();
        if at - from >= if paragraph { size } else { 4 * size } {
            pieces.push((from, at));
            from = at;
        }
    }
    // A short rest is joined to the piece before it.
    match pieces.last_mut() {
        Some(last) if at - from < size / 2 => last.1 = at,
        _ => pieces.push((from, at)),
    }
    let piece = |(from, to): (usize, usize)| Text {
        text: text.text[from..to].to_owned(),
        end: start + to as u64,
    };
    pieces.into_iter().map(piece).collect()
}

fn lines(path: &Path, file: File, field: &str, start: u64) -> impl Iterator<Item = Result<Text>> {
    let mut reader = BufReader::with_capacity(1 << 18, file);
    let (mut number, mut end) = (0, start);
    let mut skipped = Vec::new();
    std::iter::from_fn(move || {
        loop {
            let mut line = Vec::new();
            match reader.read_until(b'\n', &mut line) {
                Err(error) => return Some(Err(io("read", path)(error))),
                Ok(0) => {
                    warn_of(path, &std::mem::take(&mut skipped));
                    return None;
                }
                Ok(read) => end += read as u64,
            }
            number += 1;
            let line = match number {
                1 => line.strip_prefix(BOM.as_bytes()).unwrap_or(&line),
                _ => &line,
            };
            if line.trim_ascii().is_empty() {
                continue;
            }
            let bad =
                |reason| Error::Document { path: path.to_owned(), line: Some(number), reason };
            let text = match json::from_slice::<Value>(line) {
                Err(_) if is_no_text(line) => {
                    skipped.push(number);
                    continue;
                }
                Err(error) => Err(bad(format!("not JSON: {error}"))),
                Ok(value) => text_of(&value, field).map(|text| Text { text, end }).map_err(bad),
            };
            return Some(text);
        }
    })
}

/// True for a line that would be JSON if its texts were Unicode: it has invalid UTF-8, or escapes
/// of surrogates without their other half.
fn is_no_text(line: &[u8]) -> bool {
    let lossy = String::from_utf8_lossy(line);
    let mut mended = String::with_capacity(lossy.len());
    let mut rest = &*lossy;
    // Escapes of surrogates are replaced by the escape of a letter; "\\\\" does not begin an escape.
    while let Some(at) = rest.find('\\') {
        let (before, escape) = rest.split_at(at);
        mended.push_str(before);
        let digits = escape.get(2..6).filter(|_| escape.starts_with("\\u"));
        let unit = digits.and_then(|digits| u16::from_str_radix(digits, 16).ok());
        let length = match unit {
            Some(0xd800..=0xdfff) => {
                mended.push('x');
                6
            }
            _ => {
                let length = 1 + escape[1..].chars().next().map_or(0, char::len_utf8);
                mended.push_str(&escape[..length]);
                length
            }
        };
        rest = &escape[length..];
    }
    mended.push_str(rest);
    serde_json::from_str::<serde::de::IgnoredAny>(&mended).is_ok()
}

/// Warns of skipped lines, if there are any.
fn warn_of(path: &Path, skipped: &[usize]) {
    if skipped.is_empty() {
        return;
    }
    let named: Vec<String> = skipped.iter().take(NAMED).map(usize::to_string).collect();
    let more = if skipped.len() > NAMED { ", ..." } else { "" };
    log::warn!(
        "{}: lines skipped that are no Unicode text (lone surrogates or invalid UTF-8): {} in all, \
         {}{more}",
        path.display(),
        skipped.len(),
        named.join(", ")
    );
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
    fn lines_that_are_no_unicode_are_skipped() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("x.jsonl");
        let mut bytes = b"\xef\xbb\xbf{\"text\": \"a\"}\n".to_vec();
        bytes.extend(b"{\"text\": \"lone \\ud83d half\"}\n");
        bytes.extend(b"{\"text\": \"caf\xe9\"}\n");
        bytes.extend(b"{\"text\": \"\\ud83d\\ude00 \\\\ud83d\"}\n");
        bytes.extend(b"{\"text\": \"\\udc00\", \"n\": [1, 2.5, \"\\n\"]}\n{\"text\": \"b\"}");
        fs::write(&path, bytes).unwrap();
        assert_eq!(texts(&path, "text").unwrap(), ["a", "\u{1f600} \\ud83d", "b"]);
        // Python writes numbers that are not JSON.
        fs::write(&path, "{\"text\": \"a\", \"score\": NaN}\n{\"text\": \"b\", \"x\": -Infinity}")
            .unwrap();
        assert_eq!(texts(&path, "text").unwrap(), ["a", "b"]);
        // A line that is no JSON is an error, with a surrogate too.
        fs::write(&path, "{\"text\": \"\\ud83d\"").unwrap();
        assert!(texts(&path, "text").unwrap_err().to_string().contains("not JSON"));
        let text = directory.path().join("x.txt");
        fs::write(&text, "\u{feff}a").unwrap();
        assert_eq!(texts(&text, "text").unwrap(), ["a"]);
    }

    #[test]
    fn lists_of_documents() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("x.json");
        for (text, expected) in [
            (
                "\u{feff}[{\"text\": \"a\", \"x\": NaN},\n {\"text\": \"b\"}, \"c\"]",
                &["a", "b", "c"][..],
            ),
            ("{\"text\":\n \"a\"}", &["a"]),
            ("{\"text\": \"a\"}\n{\"text\": \"b\"}\n", &["a", "b"]),
            ("[]", &[]),
        ] {
            fs::write(&path, text).unwrap();
            assert_eq!(texts(&path, "text").unwrap(), expected);
        }
        for (text, part) in [
            ("[{\"text\": \"a\"}, {\"t\": 1}]", "item 2: it has no field"),
            ("[{\"text\": 1}]", "item 1: its field"),
            ("[{\"text\": \"a\"]", "not JSON"),
            ("[{\"text\": \"\\ud83d\"}]", "one object per line"),
        ] {
            fs::write(&path, text).unwrap();
            let error = texts(&path, "text").unwrap_err().to_string();
            assert!(error.contains(part) && error.contains("x.json"), "{error}");
        }
        // Other .json files of a directory are no documents.
        fs::write(directory.path().join("a.txt"), "a").unwrap();
        assert_eq!(texts(directory.path(), "text").unwrap(), ["a"]);
    }

    #[test]
    fn a_single_text_is_cut_into_documents() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("book.txt");
        let paragraph = |i: usize| format!("Chapter {i}. {}\n\n", "It was a day. ".repeat(20));
        let book: String = (0..400).map(paragraph).collect();
        fs::write(&path, &book).unwrap();
        let split = || Sources::new(&path, "text").unwrap().split();
        let found: Vec<Text> = split().texts().map(Result::unwrap).collect();
        assert_eq!(found.iter().map(|piece| piece.text.as_str()).collect::<String>(), book);
        assert!((80..=100).contains(&found.len()), "{}", found.len());
        assert!(found.iter().all(|piece| piece.text.starts_with("Chapter")));
        assert_eq!(found.last().unwrap().end, book.len() as u64);
        // One long paragraph, a short text, and texts among others.
        fs::write(&path, "a line\n".repeat(4000)).unwrap();
        assert!(split().texts().count() > 4);
        fs::write(&path, "short\n\ntext").unwrap();
        assert_eq!(split().texts().count(), 1);
        fs::write(directory.path().join("other.txt"), &book).unwrap();
        let both = Sources::new(directory.path(), "text").unwrap().split();
        assert_eq!(both.texts().count(), 2);
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
