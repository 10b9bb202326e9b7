//! How a long text is read by a model that can read only so far.

use crate::error::{Error, Result};

/// A window that slides over a text. The first one predicts `length` tokens; each of the others
/// begins `stride` tokens later, reads from an empty state, and predicts what those before it
/// have not: so every token but those of the first window has at least `length - stride` tokens
/// before it. A small stride costs more and knows more.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Window {
    /// Tokens that are read from an empty state. Default: as many as the model can read.
    pub length: Option<usize>,
    /// Tokens from a window to the next. Default: half the length.
    pub stride: Option<usize>,
}

/// A window of known size: 1 <= stride <= length.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sliding {
    pub(super) length: usize,
    stride: usize,
}

impl Window {
    /// The window of models that read at most `context` tokens; none if there is no need.
    pub(super) fn within(self, context: Option<usize>) -> Result<Option<Sliding>> {
        let wrong = |option, value: usize, expected: String| {
            Err(Error::Option { option, value: value.to_string(), expected })
        };
        let Some(length) = self.length.or(context) else {
            let Some(stride) = self.stride else { return Ok(None) };
            return wrong("stride", stride, "--window too: the model reads without end".into());
        };
        let most = context.unwrap_or(usize::MAX);
        if length == 0 || length > most {
            let allowed = context.map_or("at least 1".into(), |context| format!("1 to {context}"));
            return wrong("window", length, format!("{allowed} tokens"));
        }
        let stride = self.stride.unwrap_or(length.div_ceil(2));
        if stride == 0 || stride > length {
            return wrong("stride", stride, format!("1 to {length}, the length of the window"));
        }
        Ok(Some(Sliding { length, stride }))
    }
}

impl Sliding {
    /// What a window begins with, if there is room for something else.
    pub(super) fn begin(self, begin: Option<u32>) -> Option<u32> {
        begin.filter(|_| self.length > 1)
    }

    /// Tokens of a window that the next one reads again.
    pub(super) fn kept(self, begin: Option<u32>) -> usize {
        (self.length - self.stride).saturating_sub(usize::from(self.begin(begin).is_some()))
    }
}
