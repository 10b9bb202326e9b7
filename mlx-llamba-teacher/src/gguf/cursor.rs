//! Parses the header of a GGUF file: little-endian numbers, strings and arrays.

use serde_json::{Map, Number, Value};

/// The largest number of metadata values, far above any model's, to bound memory.
const MAX_VALUES: usize = 1 << 23;

/// The problem, for [`Error::Gguf`](crate::Error::Gguf).
pub(super) type Reason = String;

/// A position in the header. Every read checks that the bytes exist.
pub(super) struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
    values: usize,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0, values: 0 }
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

    pub(super) fn string(&mut self) -> Result<String, Reason> {
        let length = self.size()?;
        let at = self.at;
        let bytes = self.take(length)?;
        let text = std::str::from_utf8(bytes);
        Ok(text.map_err(|_| format!("the string at byte {at} is not UTF-8"))?.to_owned())
    }

    /// Reads the names and values of the metadata.
    pub(super) fn metadata(&mut self, count: u64) -> Result<Map<String, Value>, Reason> {
        let mut metadata = Map::new();
        for _ in 0..count {
            let name = self.string()?;
            let kind = self.u32()?;
            let value = self.value(kind, true)?;
            metadata.insert(name, value);
        }
        Ok(metadata)
    }

    /// Reads a value of the given type; arrays contain no arrays.
    fn value(&mut self, kind: u32, outside: bool) -> Result<Value, Reason> {
        self.values += 1;
        if self.values > MAX_VALUES {
            return Err(format!("more than {MAX_VALUES} values of metadata"));
        }
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
            8 => self.string()?.into(),
            9 if outside => {
                let kind = self.u32()?;
                let count = self.u64()?;
                // The list grows with its values, because the count may be wrong.
                let mut list = Vec::new();
                for _ in 0..count {
                    list.push(self.value(kind, false)?);
                }
                Value::Array(list)
            }
            10 => self.u64()?.into(),
            11 => i64::from_le_bytes(self.array()?).into(),
            12 => float(f64::from_le_bytes(self.array()?)),
            other => return Err(format!("metadata of kind {other} before byte {}", self.at)),
        })
    }
}
