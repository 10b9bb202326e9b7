//! What a template made of a conversation.

use std::fmt;

/// The text of a conversation, as a model is to read it.
///
/// It knows which of its special tokens the template wrote and which are only spelled out in a
/// message: [`Tokenizer::encode_rendered`](crate::Tokenizer::encode_rendered) tells them apart.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rendered {
    text: String,
    /// Where characters stand that are part of no special token, in ascending order.
    guards: Vec<usize>,
}

impl Rendered {
    /// Takes every `mark` out of a text: the character behind it is part of no special token.
    pub(super) fn without(mark: &str, marked: &str) -> Self {
        let mut made = Self::default();
        let mut parts = marked.split(mark);
        made.text.push_str(parts.next().unwrap_or_default());
        for part in parts {
            made.guards.push(made.text.len());
            made.text.push_str(part);
        }
        made
    }

    /// A text in which nothing needs to be guarded.
    pub(super) fn plain(text: String) -> Self {
        Self { text, guards: Vec::new() }
    }

    /// The text.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The text.
    #[must_use]
    pub fn into_text(self) -> String {
        self.text
    }

    pub(crate) fn guards(&self) -> &[usize] {
        &self.guards
    }

    /// The part from `start` up to `end`, which are borders of characters.
    pub(crate) fn part(&self, start: usize, end: usize) -> Self {
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
