//! How well a model predicts text, how far two models are apart on it, and which of several
//! answers a model finds likeliest.
//!
//! A text is read as it comes, at constant memory ([`Evaluation`]). A model that can read only so
//! far sees it through a [`Window`] that slides.

mod alone;
mod choices;
mod estimate;
mod pair;
mod predictions;
mod question;
mod surprise;
#[cfg(test)]
mod tests;
mod window;

pub use alone::{Alone, Perplexity, Prediction};
pub use choices::{Accuracies, Answer, Asker, Asking, Score};
pub use estimate::{Estimate, Ratio};
pub use pair::{Comparison, Pair};
pub use predictions::{agreements, divergences, log_probs, losses};
pub use question::{Fields, Question};
pub use surprise::Surprise;
pub use window::Window;

use crate::error::{Error, Result};
use crate::language::LanguageModel;
use window::Sliding;

/// Tokens read in one piece, at most.
const PIECE: usize = 256;
/// Logits of a piece at most, unless that were less than [`SHORTEST`] tokens: what is in memory a
/// few times over.
const LOGITS: usize = 1 << 24;
const SHORTEST: usize = 16;

/// A document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    /// Its tokens, with those that begin and end it.
    pub tokens: Vec<u32>,
    /// Bytes of its text.
    pub bytes: u64,
}

/// Whoever reads a text piece by piece and counts: [`Alone`] or [`Pair`].
pub trait Reader {
    /// What it comes to.
    type Report;

    /// Entries of the vocabulary.
    fn vocab_size(&self) -> usize;

    /// Tokens of the longest text that it can read.
    fn context_length(&self) -> Option<usize>;

    /// Forgets what it has read; a text or a window begins.
    ///
    /// # Errors
    /// What MLX reports.
    fn anew(&mut self) -> Result<()>;

    /// Reads tokens, at least one, of which nothing is counted.
    ///
    /// # Errors
    /// [`Error::TokenOutOfRange`].
    fn skim(&mut self, tokens: &[u32]) -> Result<()>;

    /// Reads tokens, at least one, and counts how well the one after each, `next`, is predicted.
    ///
    /// # Errors
    /// [`Error::TokenOutOfRange`].
    fn count(&mut self, tokens: &[u32], next: &[u32]) -> Result<()>;

    /// A text of so many bytes ends.
    fn ends(&mut self, bytes: u64);

    /// What was counted.
    fn report(&self) -> Self::Report;
}

/// Reads texts as they come and measures how well they are predicted, from the second token on.
pub struct Evaluation<R> {
    reader: R,
    window: Option<Sliding>,
    /// What every window begins with, if the text does.
    bos: Option<u32>,
    piece: usize,
    text: Text,
}

/// A text that is being read.
#[derive(Default)]
struct Text {
    /// What was given last, and is still to be read.
    pending: Option<u32>,
    /// What every window begins with.
    begin: Option<u32>,
    /// Tokens read since the window began.
    read: usize,
    /// The last tokens read: those that the next window has in common with this one.
    recent: Vec<u32>,
}

impl<R: Reader> Evaluation<R> {
    /// Begins with nothing. `bos` is the token that begins texts: where one does begin with it, so
    /// does every window.
    ///
    /// # Errors
    /// [`Error::Option`] if the window is impossible.
    pub fn new(reader: R, window: Window, bos: Option<u32>) -> Result<Self> {
        let window = window.within(reader.context_length())?;
        let piece = (LOGITS / reader.vocab_size().max(1)).clamp(SHORTEST, PIECE);
        Ok(Self { reader, window, bos, piece, text: Text::default() })
    }

    /// Reads more of the text; the first call after [`end`](Self::end) begins another one.
    ///
    /// # Errors
    /// [`Error::TokenOutOfRange`], and what MLX reports.
    pub fn push(&mut self, ids: &[u32]) -> Result<()> {
        let mut ids = ids;
        if self.text.pending.is_none() {
            let Some((first, rest)) = ids.split_first() else { return Ok(()) };
            self.reader.anew()?;
            let begin = self.bos.filter(|bos| bos == first);
            self.text = Text { pending: Some(*first), begin, ..Text::default() };
            ids = rest;
        }
        while let (Some(pending), false) = (self.text.pending, ids.is_empty()) {
            let room = match self.window {
                Some(window) => {
                    if self.text.read == window.length {
                        self.slide(window)?;
                    }
                    window.length - self.text.read
                }
                None => usize::MAX,
            };
            let (next, rest) = ids.split_at(ids.len().min(self.piece).min(room));
            let Some((last, before)) = next.split_last() else { break };
            let tokens = [&[pending], before].concat();
            self.reader.count(&tokens, next)?;
            self.text.read += tokens.len();
            self.text.pending = Some(*last);
            if let Some(window) = self.window {
                self.text.recent.extend(tokens);
                let surplus = self.text.recent.len().saturating_sub(window.kept(self.text.begin));
                self.text.recent.drain(..surplus);
            }
            ids = rest;
        }
        Ok(())
    }

    /// Begins the next window, with the last tokens of this one.
    fn slide(&mut self, window: Sliding) -> Result<()> {
        self.reader.anew()?;
        let begin = window.begin(self.text.begin);
        let seen: Vec<u32> = begin.into_iter().chain(self.text.recent.iter().copied()).collect();
        seen.chunks(self.piece).try_for_each(|piece| self.reader.skim(piece))?;
        self.text.read = seen.len();
        Ok(())
    }

    /// The text is over; it had so many bytes.
    pub fn end(&mut self, bytes: u64) {
        self.text = Text::default();
        self.reader.ends(bytes);
    }

    /// Reads a document.
    ///
    /// # Errors
    /// As [`push`](Self::push).
    pub fn document(&mut self, document: &Document) -> Result<()> {
        self.push(&document.tokens)?;
        self.end(document.bytes);
        Ok(())
    }

    /// What was measured so far.
    pub fn report(&self) -> R::Report {
        self.reader.report()
    }
}

/// Reads `ids`, one text, with both models and compares what they predict. `progress` gets the
/// tokens read and in all.
///
/// # Errors
/// [`Error::Option`] if the text has fewer than two tokens or the vocabularies differ.
pub fn compare<R: LanguageModel, M: LanguageModel>(
    reference: &R,
    other: &M,
    ids: &[u32],
    window: Window,
    mut progress: impl FnMut(usize, usize),
) -> Result<Comparison> {
    if ids.len() < 2 {
        return Err(Error::Option {
            option: "text",
            value: format!("{} tokens", ids.len()),
            expected: "at least 2 tokens".into(),
        });
    }
    let mut evaluation = Evaluation::new(Pair::new(reference, other)?, window, None)?;
    let mut done = 0;
    for piece in ids.chunks(PIECE) {
        evaluation.push(piece)?;
        done += piece.len();
        progress(done, ids.len());
    }
    evaluation.end(0);
    Ok(evaluation.report())
}
