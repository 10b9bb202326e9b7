//! Ending a text at a stop string, also where it is spread over several pieces.

#[cfg(test)]
mod tests;

use crate::error::{Error, Result};

/// Looks for stop strings in a text that arrives in pieces.
///
/// Text is given out as soon as it cannot be part of a stop string any more. The stop string that
/// is complete first ends the text, exactly before it (of two that end together, before the
/// longer one), wherever the pieces are cut.
#[derive(Debug, Clone, Default)]
pub struct StopMatcher {
    stops: Vec<String>,
    held: String,
    hit: Option<usize>,
}

impl StopMatcher {
    /// A matcher for `stops`; without any, all text passes.
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

    /// Takes a piece and gives what can be shown. After a hit that is nothing.
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

    /// Which stop string ended the text, by its place in the list given to [`StopMatcher::new`].
    #[must_use]
    pub fn hit(&self) -> Option<usize> {
        self.hit
    }

    /// The text held back so far.
    #[must_use]
    pub fn held(&self) -> &str {
        &self.held
    }

    /// Ends the text: gives what was held back.
    pub fn flush(&mut self) -> String {
        std::mem::take(&mut self.held)
    }

    /// Length of the longest end of the held text that a stop string could begin with.
    fn promising(&self) -> usize {
        let longest = self.stops.iter().map(String::len).max().unwrap_or(0);
        let earliest = (self.held.len() + 1).saturating_sub(longest);
        let ends = self.held.char_indices().map(|(start, _)| &self.held[start..]);
        ends.filter(|end| self.held.len() - end.len() >= earliest)
            .find(|end| self.stops.iter().any(|stop| stop.starts_with(end)))
            .map_or(0, str::len)
    }
}
