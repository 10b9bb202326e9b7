//! Documents of a single text.

use super::Text;

/// The smallest and largest number of bytes of a document that is cut from a single text, where
/// possible.
const PIECE: (usize, usize) = (1 << 10, 1 << 14);
/// The number of documents that a single text is cut into, if it is long enough.
const PIECES: usize = 100;

/// Cuts a text at empty lines, and long paragraphs at line ends.
pub(super) fn pieces(text: Text) -> Vec<Text> {
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
        messages: Vec::new(),
        end: start + to as u64,
    };
    pieces.into_iter().map(piece).collect()
}
