//! Sliding windows over texts longer than a model's context.

use derive_setters::Setters;

use crate::error::{Error, Result};

/// A window that slides over a text. The first window predicts `length` tokens. Every other starts
/// `stride` tokens later from an empty state and predicts the tokens that the windows before it
/// have not, so each of these has at least `length - stride` tokens of context. A smaller stride
/// gives more context and takes longer.
#[non_exhaustive]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Setters)]
#[setters(strip_option)]
pub struct Window {
    /// The number of tokens of a window. Default: the model's limit.
    pub length: Option<usize>,
    /// The number of tokens from the start of a window to that of the next. Default: half the
    /// length.
    pub stride: Option<usize>,
}

/// A window of known size: 1 <= stride <= length.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sliding {
    pub(super) length: usize,
    stride: usize,
}

impl Window {
    /// Returns the window for models that read at most `context` tokens; `None` if none is needed.
    pub(super) fn within(self, context: Option<usize>) -> Result<Option<Sliding>> {
        let wrong = |option, value: usize, expected: String| {
            Err(Error::Argument { name: option, value: value.to_string(), expected })
        };
        let Some(length) = self.length.or(context) else {
            let Some(stride) = self.stride else { return Ok(None) };
            return wrong(
                "stride",
                stride,
                "--window too: the context of this model is unlimited".into(),
            );
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
    /// The token with which a window begins, if there is room for others.
    pub(super) fn begin(self, begin: Option<u32>) -> Option<u32> {
        begin.filter(|_| self.length > 1)
    }

    /// The number of tokens of a window that the next one reads again.
    pub(super) fn kept(self, begin: Option<u32>) -> usize {
        (self.length - self.stride).saturating_sub(usize::from(self.begin(begin).is_some()))
    }
}
