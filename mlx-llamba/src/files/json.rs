//! JSON that other programs wrote.

use serde::de::{DeserializeOwned, Error};

/// The byte-order mark of UTF-8, with which some editors begin files.
pub(crate) const MARK: &[u8] = b"\xef\xbb\xbf";

/// Parses JSON, also with a byte-order mark, and with the numbers `NaN`, `Infinity` and
/// `-Infinity`, which Python writes: they become strings of these words.
///
/// # Errors
/// The line and column of a mistake, or the kind of file that this is instead of JSON.
pub fn from_slice<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, serde_json::Error> {
    let bytes = bytes.strip_prefix(MARK).unwrap_or(bytes);
    serde_json::from_slice(bytes).or_else(|error| match (kind(bytes), quote_numbers(bytes)) {
        (Some(kind), _) => Err(serde_json::Error::custom(format!("it is {kind}"))),
        (None, Some(quoted)) => serde_json::from_slice(&quoted).map_err(|_| error),
        (None, None) => Err(error),
    })
}

/// Describes a file that downloads leave in place of another one; `None` for anything else.
pub(crate) fn kind(bytes: &[u8]) -> Option<&'static str> {
    let start = bytes[..bytes.len().min(256)].trim_ascii_start().to_ascii_lowercase();
    if start.starts_with(b"version https://git-lfs") {
        Some("a Git LFS pointer; get the file itself with `git lfs pull`")
    } else if start.starts_with(b"<!doctype html") || start.starts_with(b"<html") {
        Some("an HTML page; download the file itself")
    } else {
        None
    }
}

/// Puts quotes around Python's numbers that are not JSON; `None` if there are none.
fn quote_numbers(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(bytes.len() + 16);
    let (mut rest, mut in_string, mut found) = (bytes, false, false);
    while let Some(&byte) = rest.first() {
        let words = [&b"NaN"[..], b"Infinity", b"-Infinity"];
        let word = words.into_iter().find(|word| !in_string && rest.starts_with(word));
        let taken = match (word, byte) {
            (Some(word), _) => {
                found = true;
                out.extend([b"\"", word, b"\""].concat());
                rest = &rest[word.len()..];
                continue;
            }
            (None, b'\\') if in_string => rest.len().min(2),
            (None, b'"') => {
                in_string = !in_string;
                1
            }
            _ => 1,
        };
        out.extend_from_slice(&rest[..taken]);
        rest = &rest[taken..];
    }
    found.then_some(out)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn numbers_of_python_and_byte_order_marks_are_read() {
        let text =
            b"\xef\xbb\xbf{\"a\": [0.0, Infinity, -Infinity], \"b\\\"NaN\": NaN, \"c\": \"NaN\"}";
        let value: Value = from_slice(text).unwrap();
        let expected = json!({
            "a": [0.0, "Infinity", "-Infinity"], "b\"NaN": "NaN", "c": "NaN"
        });
        assert_eq!(value, expected);
        for wrong in [&b"{\"a\": NaN"[..], b"[Inf]", b"[NaN1]", b"\"NaN", b"\\", b""] {
            assert!(from_slice::<Value>(wrong).is_err());
        }
    }

    #[test]
    fn other_files_are_recognized() {
        let error = |bytes: &[u8]| from_slice::<Value>(bytes).unwrap_err().to_string();
        let pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 7\n";
        assert!(error(pointer).contains("Git LFS pointer"));
        assert!(error(b"\n <!DOCTYPE html><html>").contains("HTML page"));
        assert!(error(b"<xml>").contains("line 1"));
    }
}
