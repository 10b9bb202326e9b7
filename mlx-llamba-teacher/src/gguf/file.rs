//! The header of a GGUF file, checked against the file's length.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use mlx_llamba::files::Source;
use serde_json::Value;

use super::blocks::Kind;
use super::cursor::{Cursor, Metadata, Reason};
use crate::error::{Error, Result};

/// The first bytes of every GGUF file.
pub(crate) const MAGIC: &[u8; 4] = b"GGUF";
/// Tensors begin at multiples of this, unless the metadata says otherwise.
const ALIGNMENT: u64 = 32;
/// The most parts of a model.
const PARTS: u64 = 1000;

/// A tensor whose bytes lie inside the file.
#[derive(Debug, Clone)]
pub(super) struct Stored {
    /// Rows first, unlike in GGUF.
    pub(super) shape: Vec<usize>,
    pub(super) kind: Kind,
    /// The index of its file, and the bytes in it.
    pub(super) part: usize,
    pub(super) range: Range<usize>,
}

/// Metadata and tensors.
#[derive(Debug)]
pub(super) struct File {
    pub(super) metadata: Metadata,
    pub(super) tensors: BTreeMap<String, Stored>,
}

/// A tensor as the header describes it.
struct Described {
    name: String,
    shape: Vec<usize>,
    kind: u32,
    offset: u64,
}

/// The content of a header.
struct Header {
    metadata: Metadata,
    described: Vec<Described>,
    /// The offset of its end.
    end: usize,
}

impl File {
    /// Opens a file and, if it is one of several parts, the others. Metadata are those of the first.
    pub(super) fn open(path: &Path) -> Result<(Vec<Arc<Source>>, Self)> {
        let source = Arc::new(Source::open(path)?);
        let file = Self::read(&source)?;
        let count = file.metadata.values.get("split.count").and_then(Value::as_u64).unwrap_or(1);
        if count < 2 {
            return Ok((vec![source], file));
        }
        let damaged = |reason| Error::Gguf { path: path.to_owned(), reason };
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let end = format!("-of-{count:05}.gguf");
        let stem =
            name.strip_suffix(&end).and_then(|start| start.get(..start.len().checked_sub(6)?));
        let Some(stem) = stem.filter(|_| count <= PARTS) else {
            return Err(damaged(format!(
                "it is one of {count} parts, expected a name that ends with \
                                        -00001{end}"
            )));
        };
        let paths: Vec<_> =
            (1..=count).map(|i| path.with_file_name(format!("{stem}-{i:05}{end}"))).collect();
        if let Some(missing) = paths.iter().find(|path| !path.is_file()) {
            let missing = missing.display();
            return Err(damaged(format!(
                "it is one of {count} parts, of which {missing} is missing"
            )));
        }
        let (mut sources, mut whole) = (Vec::new(), None::<Self>);
        for (part, path) in paths.iter().enumerate() {
            let source = Arc::new(Source::open(path)?);
            let mut file = Self::read(&source)?;
            sources.push(source);
            file.tensors.values_mut().for_each(|stored| stored.part = part);
            let Some(whole) = &mut whole else {
                whole = Some(file);
                continue;
            };
            for (name, stored) in file.tensors {
                if whole.tensors.insert(name.clone(), stored).is_some() {
                    return Err(damaged(format!("two parts have a tensor {}", shown(&name))));
                }
            }
        }
        Ok((sources, whole.unwrap_or(file)))
    }

    /// Reads and checks the header.
    pub(super) fn read(source: &Source) -> Result<Self> {
        let path = || source.path().to_owned();
        let damaged = |reason| Error::Gguf { path: path(), reason };
        let Header { metadata, described, end } = header(source.bytes()).map_err(damaged)?;
        let alignment = match metadata.values.get("general.alignment").map(Value::as_u64) {
            None => ALIGNMENT,
            Some(Some(n)) if n.is_power_of_two() && (8..=1 << 20).contains(&n) => n,
            Some(_) => return Err(damaged("an alignment that is none".into())),
        };
        let data = (end as u64).next_multiple_of(alignment);
        let mut tensors = BTreeMap::new();
        for Described { name, shape, kind, offset } in described {
            let Some(kind) = Kind::of(kind) else {
                let found = Kind::name_of(kind);
                return Err(Error::GgufType { path: path(), tensor: shown(&name), found });
            };
            let range = kind.bytes(&shape).and_then(|length| {
                let start = data.checked_add(offset).and_then(|n| usize::try_from(n).ok())?;
                let range = start..start.checked_add(length)?;
                (range.end <= source.bytes().len() && offset.is_multiple_of(alignment))
                    .then_some(range)
            });
            let Some(range) = range else {
                return Err(damaged(format!(
                    "tensor {} of shape {shape:?} ({kind}) at offset {offset} does not lie in the \
                     file, or in whole blocks: truncated or damaged",
                    shown(&name)
                )));
            };
            if tensors.insert(name.clone(), Stored { shape, kind, part: 0, range }).is_some() {
                return Err(damaged(format!("two tensors are called {}", shown(&name))));
            }
        }
        Ok(Self { metadata, tensors })
    }
}

fn header(bytes: &[u8]) -> Result<Header, Reason> {
    let mut cursor = Cursor::new(bytes);
    if cursor.u32()?.to_le_bytes() != *MAGIC {
        return Err("it does not begin with GGUF".into());
    }
    let version = cursor.u32()?;
    if !matches!(version, 2 | 3) {
        return Err(format!("version {version}, expected 2 or 3 (little-endian)"));
    }
    let tensors = cursor.u64()?;
    let count = cursor.u64()?;
    let metadata = cursor.metadata(count)?;
    cursor.fits(tensors, "tensors")?;
    // The list grows with its entries, because the count may be wrong.
    let mut described = Vec::new();
    for _ in 0..tensors {
        let name = cursor.name()?;
        let axes = cursor.u32()?;
        if !(1..=4).contains(&axes) {
            return Err(format!("tensor {} has {axes} axes", shown(&name)));
        }
        let mut shape = (0..axes).map(|_| cursor.size()).collect::<Result<Vec<_>, _>>()?;
        shape.reverse();
        let (kind, offset) = (cursor.u32()?, cursor.u64()?);
        described.push(Described { name, shape, kind, offset });
    }
    Ok(Header { metadata, described, end: cursor.at() })
}

/// Escapes a name from a file for a message.
pub(super) fn shown(name: &str) -> String {
    name.chars().take(80).flat_map(char::escape_debug).collect()
}
