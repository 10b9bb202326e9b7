//! Text in which some characters are no part of special tokens.

use std::fmt;

/// The text that a chat template made of a conversation.
///
/// It records which special tokens the template wrote and which are only spelled out in a message;
/// [`Tokenizer::encode_rendered`](crate::Tokenizer::encode_rendered) reads the latter as text.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rendered {
    text: String,
    /// Positions of the characters that are part of no special token, ascending.
    guards: Vec<usize>,
}

impl Rendered {
    /// Removes every `mark` from a text: the character after it is part of no special token.
    pub(crate) fn without(mark: &str, marked: &str) -> Self {
        let mut made = Self::default();
        let mut parts = marked.split(mark);
        made.text.push_str(parts.next().unwrap_or_default());
        for part in parts {
            made.guards.push(made.text.len());
            made.text.push_str(part);
        }
        made
    }

    /// A text without guarded characters.
    pub(crate) fn plain(text: String) -> Self {
        Self { text, guards: Vec::new() }
    }

    /// The text.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Returns the text.
    #[must_use]
    pub fn into_text(self) -> String {
        self.text
    }

    /// True if messages spell out special tokens, or parts of them.
    #[must_use]
    pub fn is_guarded(&self) -> bool {
        !self.guards.is_empty()
    }

    pub(crate) fn guards(&self) -> &[usize] {
        &self.guards
    }

    /// The part from `start` to before `end`.
    ///
    /// # Panics
    /// If they are no character boundaries of the text in this order.
    #[must_use]
    pub fn part(&self, start: usize, end: usize) -> Self {
        let inside = self.guards.iter().filter(|&&at| (start..end).contains(&at));
        Self {
            text: self.text[start..end].to_owned(),
            guards: inside.map(|at| at - start).collect(),
        }
    }
}

impl fmt::Display for Rendered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}
