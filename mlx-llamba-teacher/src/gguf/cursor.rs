//! Parses the header of a GGUF file: little-endian numbers, strings and arrays.

use std::collections::BTreeMap;

use mlx_llamba::files::most_entries;
use serde_json::{Map, Number, Value, json};

/// The longest name, in bytes.
const LONGEST: usize = 256;
/// GGUF's number of strings, and of lists.
const TEXT: u32 = 8;
const LIST: u32 = 9;

/// The values of a header. Those in lists stay in the file, where they take the least memory.
#[derive(Debug, Default)]
pub(super) struct Metadata {
    /// Numbers, booleans and strings by name; lists are there with a note of their length.
    pub(super) values: Map<String, Value>,
    pub(super) lists: BTreeMap<String, List>,
}

/// A list in a file, all of whose values are there.
#[derive(Debug, Clone, Copy)]
pub(super) struct List {
    kind: u32,
    count: usize,
    /// The offset of the first value.
    at: usize,
}

impl List {
    pub(super) fn len(&self) -> usize {
        self.count
    }

    /// Returns the values of a list of strings, else `None`.
    pub(super) fn texts<'a>(&self, bytes: &'a [u8]) -> Option<Vec<&'a str>> {
        let mut cursor = Cursor { bytes, at: self.at };
        (0..self.count).map(|_| cursor.text().ok().filter(|_| self.kind == TEXT)).collect()
    }

    /// Returns the values of a list of numbers, else `None`.
    pub(super) fn numbers(&self, bytes: &[u8]) -> Option<Vec<f64>> {
        let mut cursor = Cursor { bytes, at: self.at };
        (0..self.count)
            .map(|_| match cursor.value(self.kind).ok()? {
                Value::Null => Some(f64::NAN),
                value => value.as_f64(),
            })
            .collect()
    }
}

/// The problem, for [`Error::Gguf`](crate::Error::Gguf).
pub(super) type Reason = String;

/// A position in the header. Every read checks that the bytes exist.
pub(super) struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// The number of bytes read.
    pub(super) fn at(&self) -> usize {
        self.at
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], Reason> {
        let end = self.at.checked_add(length).filter(|&end| end <= self.bytes.len());
        let Some(end) = end else {
            return Err(format!(
                "{length} bytes are to follow byte {}, in a file of {}: truncated or damaged",
                self.at,
                self.bytes.len()
            ));
        };
        let taken = &self.bytes[self.at..end];
        self.at = end;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Reason> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    pub(super) fn u32(&mut self) -> Result<u32, Reason> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    pub(super) fn u64(&mut self) -> Result<u64, Reason> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    /// Reads a number that fits in memory.
    pub(super) fn size(&mut self) -> Result<usize, Reason> {
        let size = self.u64()?;
        usize::try_from(size).map_err(|_| format!("a size of {size}"))
    }

    fn text(&mut self) -> Result<&'a str, Reason> {
        let length = self.size()?;
        let at = self.at;
        let text = std::str::from_utf8(self.take(length)?);
        text.map_err(|_| format!("the string at byte {at} is not UTF-8"))
    }

    /// Reads the name of a value or a tensor.
    pub(super) fn name(&mut self) -> Result<String, Reason> {
        let at = self.at;
        let name = self.text()?;
        if name.len() > LONGEST {
            let length = name.len();
            return Err(format!(
                "the name at byte {at} has {length} bytes, expected at most {LONGEST}"
            ));
        }
        Ok(name.to_owned())
    }

    /// Reads the names and values of the metadata.
    pub(super) fn metadata(&mut self, count: u64) -> Result<Metadata, Reason> {
        self.fits(count, "values of metadata")?;
        let mut metadata = Metadata::default();
        for _ in 0..count {
            let name = self.name()?;
            let value = match self.u32()? {
                LIST => {
                    let list = self.list()?;
                    metadata.lists.insert(name.clone(), list);
                    json!([format!("{} values", list.count)])
                }
                kind => self.value(kind)?,
            };
            metadata.values.insert(name, value);
        }
        Ok(metadata)
    }

    /// Refuses a number of entries that takes more memory than a file of this size should.
    pub(super) fn fits(&self, count: u64, what: &str) -> Result<(), Reason> {
        let most = most_entries(self.bytes.len());
        if count > most as u64 {
            return Err(format!(
                "{count} {what} in {} bytes, expected at most {most}",
                self.bytes.len()
            ));
        }
        Ok(())
    }

    /// Skips the values of a list, which contains no lists.
    fn list(&mut self) -> Result<List, Reason> {
        let kind = self.u32()?;
        let count = self.size()?;
        let at = self.at;
        match kind {
            TEXT => {
                for _ in 0..count {
                    self.text()?;
                }
            }
            _ => {
                let size = match kind {
                    0 | 1 | 7 => 1,
                    2 | 3 => 2,
                    4..=6 => 4,
                    10..=12 => 8,
                    _ => return Err(self.unknown(kind)),
                };
                self.take(count.saturating_mul(size))?;
            }
        }
        Ok(List { kind, count, at })
    }

    /// Reads a value of the given type that is no list.
    fn value(&mut self, kind: u32) -> Result<Value, Reason> {
        let float = |x: f64| Number::from_f64(x).map_or(Value::Null, Value::Number);
        Ok(match kind {
            0 => self.array::<1>()?[0].into(),
            1 => i8::from_le_bytes(self.array()?).into(),
            2 => u16::from_le_bytes(self.array()?).into(),
            3 => i16::from_le_bytes(self.array()?).into(),
            4 => self.u32()?.into(),
            5 => i32::from_le_bytes(self.array()?).into(),
            // Through its digits, so that 1e-5 stays 1e-5.
            6 => float(f32::from_le_bytes(self.array()?).to_string().parse().unwrap_or(f64::NAN)),
            7 => (self.array::<1>()?[0] != 0).into(),
            TEXT => self.text()?.into(),
            10 => self.u64()?.into(),
            11 => i64::from_le_bytes(self.array()?).into(),
            12 => float(f64::from_le_bytes(self.array()?)),
            other => return Err(self.unknown(other)),
        })
    }

    fn unknown(&self, kind: u32) -> Reason {
        format!("metadata of kind {kind} before byte {}", self.at)
    }
}
