//! Detection of stop strings that may span several pieces of a text.

#[cfg(test)]
mod tests;

use crate::error::{Error, Result};

/// Finds stop strings in a text that arrives in pieces.
///
/// Text is released as soon as it can no longer be part of a stop string. The stop string that is
/// complete first ends the text, exactly before it (of two that end together, before the longer
/// one), however the text is divided into pieces.
#[derive(Debug, Clone, Default)]
pub struct StopMatcher {
    stops: Vec<String>,
    held: String,
    hit: Option<usize>,
}

impl StopMatcher {
    /// Creates a matcher for `stops`. Without any, all text passes.
    ///
    /// # Errors
    /// [`Error::Argument`] if one of them is empty.
    pub fn new(stops: impl IntoIterator<Item = impl Into<String>>) -> Result<Self> {
        let stops: Vec<String> = stops.into_iter().map(Into::into).collect();
        if stops.iter().any(String::is_empty) {
            let (value, expected) = ("an empty string".to_owned(), "at least one character".into());
            return Err(Error::Argument { name: "stop", value, expected });
        }
        Ok(Self { stops, ..Self::default() })
    }

    /// Adds a piece and returns the text that is released: none after a stop string.
    pub fn push(&mut self, piece: &str) -> String {
        if self.hit.is_some() {
            return String::new();
        }
        self.held.push_str(piece);
        let found = self.stops.iter().enumerate().filter_map(|(index, stop)| {
            let start = self.held.find(stop.as_str())?;
            Some((start + stop.len(), start, index))
        });
        if let Some((_, start, index)) = found.min() {
            self.hit = Some(index);
            self.held.truncate(start);
            return std::mem::take(&mut self.held);
        }
        let rest = self.held.split_off(self.held.len() - self.promising());
        std::mem::replace(&mut self.held, rest)
    }

    /// The index in `stops` of the stop string that ended the text.
    #[must_use]
    pub fn hit(&self) -> Option<usize> {
        self.hit
    }

    /// The text held back so far.
    #[must_use]
    pub fn held(&self) -> &str {
        &self.held
    }

    /// Ends the text and returns what was held back.
    pub fn flush(&mut self) -> String {
        std::mem::take(&mut self.held)
    }

    /// The length of the longest suffix of the held text that is a prefix of a stop string.
    fn promising(&self) -> usize {
        let longest = self.stops.iter().map(String::len).max().unwrap_or(0);
        let earliest = (self.held.len() + 1).saturating_sub(longest);
        let ends = self.held.char_indices().map(|(start, _)| &self.held[start..]);
        ends.filter(|end| self.held.len() - end.len() >= earliest)
            .find(|end| self.stops.iter().any(|stop| stop.starts_with(end)))
            .map_or(0, str::len)
    }
}
