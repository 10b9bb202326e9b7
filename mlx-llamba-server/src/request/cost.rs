//! The memory that a body will take, estimated from its bytes before anything is made of it.

/// Bytes for an element of a list or an object, and for a list, an object or a key, in all forms that
/// a body goes through. Short lists in lists cost most; `tests/memory.rs` measures them.
const PER_ELEMENT: usize = 240;
const PER_LIST: usize = 768;
/// Bytes for each byte of text: the body, its strings in JSON, in the request and in the rendered
/// conversation, and tokens.
const PER_BYTE: usize = 12;
/// The same for each byte of a session's file.
const PER_STATE_BYTE: usize = 3;

/// Returns an upper bound of the memory for a body of JSON and the prompt in it, without that for
/// encoding the prompt.
pub(crate) fn memory(body: &[u8]) -> usize {
    let (mut sum, mut in_string, mut escaped) = (PER_BYTE * body.len(), false, false);
    for &byte in body {
        if in_string {
            in_string = escaped || byte != b'"';
            escaped = !escaped && byte == b'\\';
            continue;
        }
        sum += of_value(byte);
        in_string = byte == b'"';
    }
    sum
}

/// Returns an upper bound of the memory for a session's file: its states, which are read out of the bytes
/// while these stay, and the JSON in its header, which stands in a string there.
pub(crate) fn session(file: &[u8]) -> usize {
    let length = file.first_chunk().map_or(0, |length| u64::from_le_bytes(*length));
    let header = usize::try_from(length).ok().and_then(|length| file.get(8..)?.get(..length));
    PER_STATE_BYTE * file.len()
        + header.map_or(0, |header| {
            // An escape may stand for any byte.
            let of = |&byte: &u8| if byte == b'\\' { PER_ELEMENT } else { of_value(byte) };
            PER_BYTE * header.len() + header.iter().map(of).sum::<usize>()
        })
}

/// Returns the memory for the value that a byte outside of strings stands for.
fn of_value(byte: u8) -> usize {
    match byte {
        b',' => PER_ELEMENT,
        b'[' | b'{' | b':' => PER_LIST,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::{PER_BYTE, PER_ELEMENT, PER_LIST, memory};

    #[test]
    fn texts_cost_their_bytes_only() {
        for (body, elements, lists) in
            [(r#""[,{:\"[,\\""#, 0, 0), (r#"["\\",[1,2]]"#, 2, 2), (r#"{"a,":{"b":","}}"#, 0, 4)]
        {
            let expected = PER_BYTE * body.len() + PER_ELEMENT * elements + PER_LIST * lists;
            assert_eq!(memory(body.as_bytes()), expected, "{body}");
        }
    }
}
