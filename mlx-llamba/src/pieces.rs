//! Splits long texts so that the tokens of the parts are those of the whole.

/// The number of waiting bytes at which a text is split even where tokenizers would not.
const LONGEST: usize = 1 << 16;

/// Splits an incoming text where tokenizers split it anyway: before a single space between words
/// and after a single line break between lines.
#[derive(Debug, Clone, Default)]
pub struct Pieces {
    waiting: Vec<u8>,
}

impl Pieces {
    /// Removes bytes from the front of `bytes` until a part is complete, which is returned, or none
    /// are left.
    pub fn push(&mut self, bytes: &mut &[u8]) -> Option<Vec<u8>> {
        while !bytes.is_empty() {
            let (now, later) = bytes.split_at(bytes.len().min(LONGEST));
            *bytes = later;
            self.waiting.extend_from_slice(now);
            if let Some(cut) = cut(&self.waiting) {
                let rest = self.waiting.split_off(cut);
                return Some(std::mem::replace(&mut self.waiting, rest));
            }
        }
        None
    }

    /// Returns the rest of the text.
    pub fn rest(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.waiting)
    }
}

/// The last position at which the text can be split.
fn cut(text: &[u8]) -> Option<usize> {
    let space = |byte: u8| byte.is_ascii_whitespace();
    let between = |i: &usize| match text[i - 2..=i + 1] {
        // before| after
        [_, a, b' ', c] if !space(a) && !space(c) => true,
        // before\n|after
        [a, b'\n', b, _] => !space(a) && !space(b),
        _ => false,
    };
    let found = (2..text.len().saturating_sub(1)).rev().find(between);
    found.or_else(|| (text.len() >= LONGEST).then(|| whole_characters(text)))
}

/// The position of the last character.
fn whole_characters(text: &[u8]) -> usize {
    let begins = |i: &usize| text[*i] & 0xc0 != 0x80;
    (text.len().saturating_sub(4)..text.len()).rev().find(begins).unwrap_or(text.len())
}

#[cfg(test)]
mod tests {
    use super::{LONGEST, cut};

    #[test]
    fn texts_are_cut_between_words_and_lines() {
        fn at(text: &str) -> Option<(&str, &str)> {
            cut(text.as_bytes()).map(|i| text.split_at(i))
        }
        assert_eq!(at("one two three"), Some(("one two", " three")));
        assert_eq!(at("one two "), Some(("one", " two ")));
        assert_eq!(at("one\ntwo"), Some(("one\n", "two")));
        assert_eq!(at("one  two"), None);
        assert_eq!(at("one\n\ntwo"), None);
        assert_eq!(at("one\r\ntwo"), None);
        assert_eq!(at("one \u{a0}x"), Some(("one", " \u{a0}x")));
        assert_eq!(at(" a"), None);
        assert_eq!(at(""), None);
        let long = "é".repeat(LONGEST);
        assert_eq!(at(&long).map(|(head, _)| head.len()), Some(long.len() - 2));
    }
}
