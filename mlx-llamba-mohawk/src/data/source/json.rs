//! Documents in files of JSON.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

use mlx_llamba::Message;
use mlx_llamba::files::{json, read};
use serde::Deserialize;
use serde_json::Value;

use super::{BOM, Text, is};
use crate::train::io;
use crate::{Error, Result};

/// The number of skipped lines that a warning names.
const NAMED: usize = 5;

/// Documents of a `.json` file that is a list, or one object over several lines; `None` for one that
/// has an object per line.
pub(super) fn list(path: &Path, field: &str, end: u64) -> Result<Option<Vec<Result<Text>>>> {
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
        Value::String(text) => Ok(Text { text, messages: Vec::new(), end }),
        item => document_of(&item, field, end)
            .map_err(|reason| bad(None, format!("item {}: {reason}", i + 1))),
    };
    Ok(Some(items.into_iter().enumerate().map(document).collect()))
}

/// Returns the document of an object, or the reason why there is none.
fn document_of(value: &Value, field: &str, end: u64) -> std::result::Result<Text, String> {
    let messages = match (&value[field], &value["messages"], &value["conversations"]) {
        (Value::String(text), ..) => {
            return Ok(Text { text: text.clone(), messages: Vec::new(), end });
        }
        (Value::Null, Value::Null, Value::Null) => {
            return Err(format!(
                "it has no field {field:?} and no \"messages\": name the text's field by --field NAME \
                 or --set data.field=NAME"
            ));
        }
        (Value::Null, Value::Null, turns) => Vec::<Turn>::deserialize(turns)
            .map(|turns| turns.into_iter().map(Turn::message).collect())
            .map_err(|error| format!("its \"conversations\": {error}"))?,
        (Value::Null, messages, _) => Vec::<Message>::deserialize(messages)
            .map_err(|error| format!("its \"messages\": {error}"))?,
        _ => return Err(format!("its field {field:?} is no text")),
    };
    let texts: Vec<&str> = messages.iter().map(|message| message.content.as_str()).collect();
    Ok(Text { text: texts.join("\n\n"), messages, end })
}

/// A message as ShareGPT and its successors store it.
#[derive(Deserialize)]
struct Turn {
    from: String,
    value: String,
}

impl Turn {
    fn message(self) -> Message {
        let role = match self.from.as_str() {
            "human" => "user",
            "gpt" => "assistant",
            other => other,
        };
        Message::new(role, self.value)
    }
}

/// Documents of a file with an object per line.
pub(super) fn lines(
    path: &Path,
    file: File,
    field: &str,
    start: u64,
) -> impl Iterator<Item = Result<Text>> {
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
                Ok(value) => document_of(&value, field, end).map_err(bad),
            };
            return Some(text);
        }
    })
}

/// True for a line that would be JSON if its texts were Unicode: it has invalid UTF-8, or escapes
/// of surrogates without their other half.
pub(crate) fn is_no_text(line: &[u8]) -> bool {
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
pub(crate) fn warn_of(path: &Path, skipped: &[usize]) {
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
