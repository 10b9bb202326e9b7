//! The memory that a body will take, estimated from its bytes before anything is made of it.

/// Bytes for an element of a list or an object, and for a list, an object or a key, in all forms that
/// a body goes through. Short lists in lists cost most; `tests/memory.rs` measures them.
const PER_ELEMENT: usize = 240;
const PER_LIST: usize = 768;
/// Bytes for each byte of text: the body, its strings in JSON, in the request and in the rendered
/// conversation, and tokens.
const PER_BYTE: usize = 12;

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
        sum += match byte {
            b',' => PER_ELEMENT,
            b'[' | b'{' | b':' => PER_LIST,
            _ => 0,
        };
        in_string = byte == b'"';
    }
    sum
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
